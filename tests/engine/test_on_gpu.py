"""Trainings on a GPU, pretended where there is none."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.engine import AMPTrainer
from detectron2.utils.env import seed_all_rng

from paramap_d2.config import read_config
from paramap_d2.engine import Trainer

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"
ALL = pytest.mark.parametrize(
    "detector", ["retinanet_R_18_FPN", "faster_rcnn_R_18_FPN", "deformable_detr_R_18", "retinanet_lite0_FPN"]
)


def train(detector, tiny, folder, gpu, *opts, resume=False):
    given = [*tiny, "OUTPUT_DIR", str(folder), "MODEL.DEVICE", gpu, *opts]
    seed_all_rng(0)  # augmentations draw by NumPy
    trainer = Trainer(read_config(CONFIGS / f"shapes_{detector}.yaml", given))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    assert all(p.device.type == gpu and torch.isfinite(p).all() for p in trainer.model.parameters())
    logged = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert all(math.isfinite(line["total_loss"]) for line in logged if "total_loss" in line)
    assert math.isfinite(logged[-1]["bbox/AP"])
    return trainer


@ALL
def test_trains_and_evaluates(detector, tiny, tmp_path, gpu):
    train(detector, tiny, tmp_path, gpu)
    assert (tmp_path / "model_final.pth").exists()


def test_calibrates(tiny, tmp_path, gpu):
    opts = ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "SOLVER.MAX_ITER", "20"]
    train("retinanet_R_18_FPN", tiny, tmp_path, gpu, *opts, "MODEL.PARAM_AP.CALIBRATE_ON", "tiny_train")
    assert (tmp_path / "model_calibrated.pth").exists()


def test_detects_in_augmented_images(tiny, tmp_path, gpu):
    opts = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"]
    train("faster_rcnn_R_18_FPN", tiny, tmp_path, gpu, *opts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ALL
def test_goes_on_with_mixed_precision(detector, tiny, tmp_path):
    opts = ["SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER"]
    train(detector, tiny, tmp_path, "cuda", *opts, "4")
    trainer = train(detector, tiny, tmp_path, "cuda", *opts, "6", resume=True)
    assert trainer.start_iter == 4 and isinstance(trainer._trainer, AMPTrainer)
