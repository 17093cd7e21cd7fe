"""What a training leaves of its loss, and that a folder so left predicts wherever it is copied to."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

from paramap_d2.config import add_paramap_config, read_config
from paramap_d2.engine import Trainer
from paramap_d2.engine.trained_loss import TrainedLoss
from paramap_d2.losses import HeadLoss, LossFileError, load_any_loss, load_loss, save_loss
from paramap_d2.modeling import BoxAPLoss

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"


def hook(folder, start_iter=0, **losses):
    """The hook of a training whose model has these heads."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in losses})
    for name, loss in losses.items():
        model[name].box_ap_loss = loss
    made = TrainedLoss(folder)
    made.trainer = SimpleNamespace(model=model, start_iter=start_iter)
    return made


def test_the_functions_that_were_trained_with(tmp_path):
    heads = [BoxAPLoss(head, "fasterrcnn-coco", grad_scale=scale) for head, scale in (("rpn", 2.5), ("roi", 0))]
    hook(tmp_path / "new", rpn=heads[0], roi=heads[1], again=heads[1]).before_train()
    preset, left = load_loss("fasterrcnn-coco"), load_loss(tmp_path / "new" / "loss.json")
    assert left == {"rpn": HeadLoss(preset["rpn"].functions, 2.5), "roi": preset["roi"]}
    assert json.loads((tmp_path / "new" / "loss.json").read_text())["meta"]["trained_with"] == "fasterrcnn-coco"


def test_a_model_without_the_loss_leaves_none(tmp_path):
    hook(tmp_path).before_train()
    assert not list(tmp_path.iterdir())


def test_a_loss_that_cannot_be_read_is_told_before_the_first_step(tmp_path):
    with pytest.raises(LossFileError, match="nowhere.json"):
        hook(tmp_path, dense=BoxAPLoss("dense", "nowhere.json")).before_train()


@pytest.mark.parametrize("before", ["square", "damaged"])
def test_a_training_that_goes_on_with_another_loss_says_so(tmp_path, before, caplog):
    path = tmp_path / "loss.json"
    if before == "damaged":
        path.write_text("{")
    else:
        hook(tmp_path, dense=BoxAPLoss("dense", before)).before_train()
    content = path.read_text()
    with caplog.at_level(logging.WARNING):
        hook(tmp_path, 120, dense=BoxAPLoss("dense", "linear")).before_train()
    (record,) = caplog.records
    assert "up to iteration 120" in record.message and "goes on with linear" in record.message
    assert (tmp_path / "loss_until_120.json").read_text() == content
    assert load_loss(path)["dense"] == load_loss("linear")["dense"]


@pytest.mark.parametrize("first, then", [("square", "ap-loss"), ("ap-loss", "square"), ("ap-loss", "rank-sort")])
def test_a_loss_without_functions_is_left_too(tmp_path, first, then, caplog):
    path = tmp_path / "loss.json"
    for start_iter, loss in ((0, first), (60, first), (120, then)):
        hook(tmp_path, start_iter, dense=BoxAPLoss("dense", loss, grad_scale=2.0)).before_train()
        assert load_any_loss(path)["dense"] == replace(load_any_loss(loss)["dense"], grad_scale=2.0)
    assert load_any_loss(tmp_path / "loss_until_120.json")["dense"].grad_scale == 2.0
    assert [r.message.count(f"goes on with {then}") for r in caplog.records] == [1]


@pytest.mark.parametrize("start_iter", [0, 120])
def test_the_same_loss_by_another_name_is_no_change(tmp_path, start_iter, caplog):
    save_loss(tmp_path / "loss.json", {"dense": load_loss("retinanet-coco")["dense"]}, {"searched": "here"})
    with caplog.at_level(logging.WARNING):
        hook(tmp_path, start_iter, dense=BoxAPLoss("dense", "retinanet-coco")).before_train()
    assert not caplog.records and [p.name for p in tmp_path.iterdir()] == ["loss.json"]
    assert json.loads((tmp_path / "loss.json").read_text())["meta"] == {"searched": "here"}


def test_a_copied_folder_predicts_from_anywhere(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_loss("best.json", load_loss("retinanet-coco"))
    cfg = read_config(
        CONFIGS / "shapes_retinanet_R_18_FPN.yaml",
        [*tiny, "MODEL.PARAM_AP.LOSS", "best.json", "OUTPUT_DIR", "out", "TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 1],
    )
    cfg.DATASETS.TEST = ()
    Path("out").mkdir()
    Path("out/config.yaml").write_text(cfg.dump())  # as Detectron2's default_setup does
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shutil.copytree("out", tmp_path / "elsewhere" / "copied")
    for one in ("out", "best.json"):
        shutil.rmtree(one) if one == "out" else Path(one).unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    served = get_cfg()
    add_paramap_config(served)
    served.merge_from_file("copied/config.yaml")
    served.MODEL.WEIGHTS = "copied/model_final.pth"
    found = DefaultPredictor(served)(image)["instances"]
    trainer.model.eval()
    with torch.no_grad():
        tensor = torch.as_tensor(image.transpose(2, 0, 1).copy())
        (wanted,) = trainer.model([{"image": tensor, "height": 64, "width": 64}])
    assert len(found) == len(wanted["instances"]) > 0
    torch.testing.assert_close(found.scores, wanted["instances"].scores)
    assert load_loss("copied/loss.json")["dense"] == load_loss("retinanet-coco")["dense"]
