import pytest
from detectron2.config import get_cfg

from paramap_d2.config import ConfigError, add_paramap_config, check_data, num_classes
from paramap_d2.data import shapes  # noqa: F401  registers


@pytest.mark.parametrize(
    "architecture, classes",
    [
        ("ParamAPRetinaNet", 3),
        ("RetinaNet", 3),
        ("GeneralizedRCNN", 4),
        ("ParamAPDeformableDETR", 5),
        ("ProposalNetwork", None),  # finds objects of any class
        ("SomebodysDetector", None),
    ],
)
def test_classes_are_asked_of_detectors_that_have_them(architecture, classes):
    cfg = get_cfg()
    add_paramap_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEFORMABLE_DETR.NUM_CLASSES = 3, 4, 5
    assert num_classes(cfg) == classes
    if classes in (3, None):
        check_data(["shapes_val"], [], num_classes(cfg))
    else:
        with pytest.raises(ConfigError, match=f"shapes_val has 3 classes, and the config's detector {classes}"):
            check_data(["shapes_val"], [], num_classes(cfg))
