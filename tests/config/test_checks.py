import contextlib

import numpy as np
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
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.config.lazy_checks import check_lazy_config
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


@pytest.fixture
def of_objects():
    """Registers a data set of one image with these objects, all in one box."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    names = []

    def register(name, objects, **metadata):
        record = {**DatasetCatalog.get("shapes_val")[0]}
        box = record["annotations"][0]["bbox"], record["annotations"][0]["bbox_mode"]
        record["annotations"] = [{"bbox": box[0], "bbox_mode": box[1], **item} for item in objects]
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    yield register
    for name in names:
        DatasetCatalog.remove(name), MetadataCatalog.remove(name)


def posed(*keypoints):
    return [{"category_id": 0, **({"keypoints": [3, 3, 2] * n} if n else {})} for n in keypoints]


@pytest.mark.parametrize(
    "objects, names, keypoints, sigmas, message",
    [
        (posed(2, 2), None, 2, [0.1, 0.1], "posed has no keypoint_names, and the config trains keypoints"),
        (posed(2, 2), ["a", "b"], 2, [0.1, 0.1], ""),
        (posed(2, 0), ["a", "b"], 2, [0.1, 0.1], "posed has objects with 0 keypoints, and the config trains 2 of each"),
        (posed(3, 3), ["a", "b"], 2, [0.1, 0.1], "posed has objects with 3 keypoints, and the config trains 2 of each"),
        (posed(2), ["a", "b"], 2, [], "a number for each of the 2 keypoints .*, not 0 .none stands for COCO's 17."),
        (posed(2), ["a", "b"], 2, [0.1] * 3, "a number for each of the 2 keypoints .*, not 3"),
        (posed(17), [str(k) for k in range(17)], 17, [], ""),
    ],
)
def test_keypoints_are_all_there_and_have_names_and_widths(of_objects, objects, names, keypoints, sigmas, message):
    of_objects("posed", objects, thing_classes=["a"], **({"keypoint_names": names} if names else {}))
    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"), ["MODEL.PARAM_AP.CALIBRATE_ON", ""])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("posed",)
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, keypoints
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        check_config(cfg)


def test_objects_without_keypoints_may_be_evaluated_on(of_objects):
    of_objects("posed_test", posed(2, 0), thing_classes=["a"])
    check_data([], ["posed_test"], None, keypoints=("NUM_KEYPOINTS", 2))
    with pytest.raises(ConfigError, match="posed_test has objects with 2 keypoints, and the config trains 3 of each"):
        check_data([], ["posed_test"], None, keypoints=("NUM_KEYPOINTS", 3))


def test_masks_are_of_a_form_that_is_trained(of_objects):
    square = [1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    code = {"size": [64, 64], "counts": b"PP11"}
    masks = [square], code, np.ones((64, 64), bool)
    of_objects("masked", [{"category_id": 0, "segmentation": mask} for mask in masks], thing_classes=["a"])
    check_data(["masked"], [], None, masks=("INPUT.MASK_FORMAT", "bitmask"))
    check_data([], ["masked"], None, masks=("INPUT.MASK_FORMAT", "polygon"))  # nothing is trained on it
    with pytest.raises(
        ConfigError, match="masked has 2 masks as run-length codes or arrays, .* set INPUT.MASK_FORMAT to bit"
    ):
        check_data(["masked"], [], None, masks=("INPUT.MASK_FORMAT", "polygon"))


@pytest.mark.parametrize(
    "classes, labels, message",
    [
        (["a", "b"], [0, 1], ""),
        (["a", "b"], [1, 2], "an object of .* has the category_id 2: classes are counted from 0 to 1"),
        (["a", "b"], [-1], "has the category_id -1: classes are counted from 0 to 1"),
        (None, [0, 1], ""),
        (None, [1, 2], "has an object of class 2, and the config's detector 2 classes, from 0 on .NUM_CLASSES"),
    ],
)
def test_classes_that_the_detector_does_not_have(of_objects, classes, labels, message):
    of_objects("labelled", [{"category_id": k} for k in labels], **({"thing_classes": classes} if classes else {}))
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        check_data(["labelled"], [], ("NUM_CLASSES", 2))


def test_a_detector_of_ones_own_has_the_classes_of_what_it_is_made_of(monkeypatch):
    from detectron2.modeling import META_ARCH_REGISTRY

    from paramap_d2.modeling import ParamAPRetinaNet

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OwnToy", type("OwnToy", (ParamAPRetinaNet,), {}))
    opts = ["MODEL.META_ARCHITECTURE", "OwnToy", "MODEL.RETINANET.NUM_CLASSES", 1]
    with pytest.raises(ConfigError, match="shapes_train has 3 classes, and the config's detector 1"):
        check_config(read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), opts))


@pytest.mark.parametrize(
    "config, opts, message",
    [
        ("retinanet", ["MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", 2.0], "RETINANET.BBOX_REG_LOSS_WEIGHT 2 is not used by"),
        ("faster_rcnn", ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 10.0], "WEIGHT 10 weighs the localization term of"),
        ("faster_rcnn", [], ""),
        ("retinanet", ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", 2.0], ""),
    ],
)
def test_weights_of_other_box_losses_are_told(config, opts, message, caplog):
    check_config(read_config(get_config_file(f"shapes_{config}_R_18_FPN.yaml"), opts))
    assert message in caplog.text if message else "BBOX_REG_LOSS_WEIGHT" not in caplog.text


@pytest.mark.parametrize(
    "config, opts, message",
    [
        ("retinanet", ["MODEL.PARAM_AP.QUALITY", "foo"], "QUALITY. must be one of giou, iou, l1, not 'foo'"),
        ("retinanet", ["INPUT.SSD_AUGMENTATION", True, "INPUT.CROP.ENABLED", True], "crops by itself: set INPUT.CROP"),
        ("retinanet", ["INPUT.SSD_SIZE", -5], "INPUT.SSD_SIZE must be at least 0, not -5"),
        (
            "faster_rcnn",
            ["MODEL.ROI_HEADS.NAME", "ParamAPCascadeROIHeads"],
            "CascadeROIHeads needs .*AGNOSTIC",
        ),
    ],
)
def test_keys_that_cannot_go_together(config, opts, message, tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pth")
    cfg = read_config(
        get_config_file(f"shapes_{config}_R_18_FPN.yaml"), [*opts, "MODEL.WEIGHTS", str(tmp_path / "x.pth")]
    )
    with pytest.raises(ConfigError, match=message):
        check_config(cfg, eval_only=True)
