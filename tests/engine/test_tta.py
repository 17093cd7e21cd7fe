"""Test-time augmentation, as Detectron2's own script has it."""

import pytest
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet

from paramap_d2.config import ConfigError, read_config
from paramap_d2.config.stock_keys import check_stock_keys
from paramap_d2.engine import Trainer
from paramap_d2.model_zoo import get_config_file


def test_figures_with_augmentation_stand_beside_those_without(tiny, tmp_path):
    opts = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "OUTPUT_DIR", str(tmp_path)]
    opts += ["MODEL.PARAM_AP.CALIBRATE_ON", "", "SOLVER.MAX_ITER", "1", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"), [*tiny, *opts])
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer._last_eval_results["bbox"] != {}
    results = Trainer.test_with_TTA(cfg, trainer.model)
    assert set(results) == {"bbox_TTA"} and "AP" in results["bbox_TTA"]
    assert (tmp_path / "inference_TTA" / "coco_instances_results.json").is_file()


@pytest.mark.parametrize("kind, refused", [(GeneralizedRCNN, False), (RetinaNet, True), (None, False)])
def test_a_detector_of_ones_own_may_have_it_if_it_is_an_rcnn(kind, refused, monkeypatch):
    mine = type("MyDetector", (kind,), {"__module__": "mine"}) if kind else lambda cfg: None
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "MyDetector", mine)
    opts = ["TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "MyDetector", "MODEL.DEVICE", "cpu"]
    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"), opts)
    if refused:
        with pytest.raises(ConfigError, match="for R-CNNs alone, not MyDetector"):
            check_stock_keys(cfg)
    else:
        check_stock_keys(cfg)
