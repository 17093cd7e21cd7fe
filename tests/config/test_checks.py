import pytest
from detectron2.config import get_cfg

from paramap_d2.config import ConfigError, add_paramap_config, check_data, detector_heads, num_classes
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


def test_models_of_ones_own_have_the_heads_of_what_they_are_made_of():
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

    from paramap_d2.modeling import ParamAPRetinaNet, ParamAPROIHeads

    cfg = get_cfg()
    add_paramap_config(cfg)
    made = [
        (META_ARCH_REGISTRY, type("OwnRetinaNetToy", (ParamAPRetinaNet,), {})),
        (ROI_HEADS_REGISTRY, type("OwnROIHeadsToy", (ParamAPROIHeads,), {})),
    ]
    for registry, kind in made:
        registry.register(kind)
    try:
        cfg.MODEL.META_ARCHITECTURE = "OwnRetinaNetToy"
        assert detector_heads(cfg) == ("dense",)
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "OwnROIHeadsToy"
        assert detector_heads(cfg) == ("roi",)
        cfg.MODEL.META_ARCHITECTURE = "NothingOfTheKind"
        assert detector_heads(cfg) == ()
    finally:
        for registry, kind in made:
            del registry._obj_map[kind.__name__]


def test_an_evaluator_of_ones_own_may_evaluate_any_kind_of_data():
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.register("own_kind_toy", lambda: DatasetCatalog.get("shapes_val")[:2])
    MetadataCatalog.get("own_kind_toy").set(evaluator_type="own", thing_classes=["circle", "square", "triangle"])
    try:
        with pytest.raises(ConfigError, match="own_kind_toy has the evaluator type own"):
            check_data([], ["own_kind_toy"], 3)
        check_data([], ["own_kind_toy"], 3, own_evaluator=True)
    finally:
        DatasetCatalog.remove("own_kind_toy")
        MetadataCatalog.remove("own_kind_toy")
