"""The demo's last picture."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from paramap_d2.cli.demo import CONFIG, draw_detections
from paramap_d2.config import read_config
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file


def test_the_picture_is_of_the_calibrated_detector(tmp_path):
    config = Path(get_config_file(CONFIG))
    with pytest.raises(UserError, match="no calibrated detector; see .*output.txt"):
        draw_detections(config, tmp_path, tmp_path / "detections.png")
    model = build_model(read_config(config))
    torch.save({"model": model.state_dict()}, tmp_path / "model_calibrated.pth")
    draw_detections(config, tmp_path, tmp_path / "detections.png")
    assert (tmp_path / "detections.png").stat().st_size > 10_000


def test_the_config_calibrates_on_images_that_it_is_not_judged_by():
    cfg = read_config(get_config_file(CONFIG))
    assert cfg.MODEL.PARAM_AP.CALIBRATE_ON == "shapes_val"
