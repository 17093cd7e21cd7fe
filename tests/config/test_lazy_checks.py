"""Mistakes in options of LazyConfigs: one line in place of a traceback, or of a training that is another one."""

import pytest
import torch

from paramap_d2.config import ConfigError
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.config.lazy_checks import check_lazy_config
from paramap_d2.model_zoo import get_config_file


@pytest.mark.parametrize(
    "detector, opts, message",
    [
        ("retinanet", ["model=null"], "options leave the config without model, which a training needs"),
        ("retinanet", ["train.amp=true"], "train.amp has parts, such as train.amp.enabled"),
        ("retinanet", ["train=null"], "the options leave the config without train.max_iter"),
        ("retinanet", ["train.amp=null"], "train.amp must have parts"),
        ("retinanet", ["train.max_iter=1.5"], "train.max_iter must be a whole number, not 1.5"),
        ("retinanet", ["train.output_dir=null"], "train.output_dir must be the path of a folder, not None"),
        ("retinanet", ["train.calibrate_on=5"], "train.calibrate_on must be the name of a data set, not 5"),
        ("retinanet", ["model.num_classes=0"], "model.num_classes must be at least 1, not 0"),
        ("retinanet", ["model.param_ap.loss=null"], "must be the name of a loss, not None"),
        ("retinanet", ["+model.param_ap.top_k=1.5"], "must be a whole number, not 1.5"),
        ("retinanet", ["+model.param_ap.topk=5"], "model.param_ap.topk is no option of the loss; did you mean top_k"),
        (
            "faster_rcnn",
            ["model.roi_heads.box_predictor.num_classes=4"],
            "box_predictor.num_classes is 4, and model.roi_heads.num_classes 3",
        ),
        ("deformable_detr", ["model.criterion.num_classes=1"], "criterion.num_classes is 1, and model.num_classes 3"),
        ("deformable_detr", ["model.num_queries=0"], "num_queries must be at least 1, not 0"),
        ("deformable_detr", ["model.dropout=2"], "dropout must lie between 0 and 1, not 2"),
    ],
)
def test_options(detector, opts, message, tmp_path):
    if detector == "deformable_detr":
        pytest.importorskip("transformers")
    name = "shapes_deformable_detr_R_18" if detector == "deformable_detr" else f"shapes_{detector}_R_18_FPN"
    with pytest.raises(ConfigError, match=message):
        check_lazy_config(read_lazy_config(get_config_file(f"lazy/{name}.py"), [f"train.output_dir={tmp_path}", *opts]))


@pytest.mark.parametrize(
    "option, message",
    [
        ("+model.param_ap.quality=foo", "must be one of giou, iou, l1, not 'foo'"),
        ("+model.param_ap.x=1", "no option of"),
    ],
)
def test_options_that_a_detector_is_not_built_with_for_inference_either(option, message, tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pth")
    opts = [f"train.output_dir={tmp_path}", f"train.init_checkpoint={tmp_path / 'x.pth'}"]
    file = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
    check_lazy_config(read_lazy_config(file, opts), eval_only=True)
    with pytest.raises(ConfigError, match=message):
        check_lazy_config(read_lazy_config(file, [*opts, option]), eval_only=True)
