import contextlib

import pytest
import torch
from detectron2.config import get_cfg

from paramap_d2.config import (
    ConfigError,
    add_paramap_config,
    check_config,
    check_data,
    detector_heads,
    num_classes,
    read_config,
)
from paramap_d2.config.lazy import check_lazy_config, read_lazy_config
from paramap_d2.data import shapes  # noqa: F401  registers
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file


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
    found = num_classes(cfg)
    assert (found and found[1]) == classes
    if classes in (3, None):
        check_data(["shapes_val"], [], found)
    else:
        with pytest.raises(ConfigError, match=f"shapes_val has 3 classes, .* detector {classes} .{found[0]}"):
            check_data(["shapes_val"], [], found)


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
            check_data([], ["own_kind_toy"], ("NUM_CLASSES", 3))
        check_data([], ["own_kind_toy"], ("NUM_CLASSES", 3), own_evaluator=True)
    finally:
        DatasetCatalog.remove("own_kind_toy")
        MetadataCatalog.remove("own_kind_toy")


@pytest.mark.parametrize("name, told", [("shapes_train", True), ("shapes_val", False), ("", False)])
def test_calibration_on_what_is_trained_on_is_told(name, told, caplog):
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), ["MODEL.PARAM_AP.CALIBRATE_ON", name])
    check_config(cfg)
    assert ("shapes_train is one that the detector trains on" in caplog.text) == told
    caplog.clear()
    lazy = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
    check_lazy_config(read_lazy_config(lazy, [f"train.calibrate_on={name}"]))
    assert ("shapes_train is one that the detector trains on" in caplog.text) == told


@pytest.mark.parametrize(
    "classes, message", [(2, "2 classes, .* 3 .MODEL.RETINANET"), (0, "'elsewhere' is not regist")]
)
def test_what_is_wrong_with_data_to_calibrate_on_names_the_key(classes, message):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    opts = ["MODEL.PARAM_AP.CALIBRATE_ON", "elsewhere"]
    if classes:
        DatasetCatalog.register("elsewhere", lambda: DatasetCatalog.get("shapes_val")[:2])
        MetadataCatalog.get("elsewhere").set(thing_classes=["a", "b"])
    try:
        with pytest.raises(ConfigError, match=f"MODEL.PARAM_AP.CALIBRATE_ON: .*{message}"):
            check_config(read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), opts))
    finally:
        if classes:
            DatasetCatalog.remove("elsewhere"), MetadataCatalog.remove("elsewhere")


def test_evaluation_needs_no_loss_file(tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pth")
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), ["MODEL.PARAM_AP.LOSS", "gone.json"])
    cfg.MODEL.WEIGHTS = str(tmp_path / "x.pth")
    lazy = read_lazy_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"), ["model.param_ap.loss=gone.json"])
    lazy.train.init_checkpoint = str(tmp_path / "x.pth")
    for check, config in ((check_config, cfg), (check_lazy_config, lazy)):
        with pytest.raises(UserError, match="gone.json"):
            check(config)
        check(config, eval_only=True)


@pytest.mark.parametrize(
    "names, keypoints, sigmas, message",
    [
        (None, 2, [0.1, 0.1], "shapes_train has no keypoint_names, and the config trains keypoints"),
        (["a", "b"], 2, [0.1, 0.1], ""),
        (["a", "b"], 2, [], "a number for each of the 2 keypoints .*, not 0 .none stands for COCO's 17."),
        (["a", "b"], 2, [0.1] * 3, "a number for each of the 2 keypoints .*, not 3"),
        ([str(k) for k in range(17)], 17, [], ""),
    ],
)
def test_keypoints_have_names_and_widths(monkeypatch, names, keypoints, sigmas, message):
    from detectron2.data import MetadataCatalog

    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"))
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, keypoints
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    if names:
        monkeypatch.setattr(MetadataCatalog.get("shapes_train"), "keypoint_names", names, raising=False)
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        check_config(cfg)
