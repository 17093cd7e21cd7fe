"""A detector's scores calibrated: by itself, at the end of a training, by command, on several ranks."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig
from detectron2.utils.env import seed_all_rng

from paramap_d2.cli import main as paramap
from paramap_d2.config import ConfigError, check_config, read_config
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.config.lazy_checks import check_lazy_config
from paramap_d2.engine import Trainer, lazy
from paramap_d2.engine import calibration as engine
from paramap_d2.engine.calibration import (
    CalibrationHook,
    calibrate,
    fast_threshold,
    save,
    summary,
    warn_if_uncalibrated,
)
from paramap_d2.errors import UserError
from paramap_d2.modeling.calibration import Calibration, folded, score_layer

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"
RETINANET = CONFIGS / "shapes_retinanet_R_18_FPN.yaml"


@pytest.fixture(scope="module")
def trained(tiny_datasets, tmp_path_factory):
    """A training of some seconds that ends with a calibration on its own images: its config and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    opts = [*tiny_datasets, "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "OUTPUT_DIR", str(folder)]
    opts += ["SOLVER.MAX_ITER", "40", "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    cfg = read_config(RETINANET, [*opts, "MODEL.PARAM_AP.CALIBRATE_ON", "tiny_train", "DATASETS.TEST", "()"])
    seed_all_rng(0)  # augmentations draw by NumPy
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return cfg, folder


def test_a_training_leaves_a_calibrated_checkpoint_beside_its_own(trained):
    cfg, folder = trained
    final, calibrated = (
        torch.load(folder / f"model_{kind}.pth", weights_only=True) for kind in ("final", "calibrated")
    )
    report = json.loads((folder / "calibration.json").read_text())
    assert (folder / "reliability.png").stat().st_size > 1000
    # But for scores that single precision cannot tell apart, before or after.
    assert report["data"] == "tiny_train" and report["before"]["AP"] == pytest.approx(report["after"]["AP"], abs=0.01)
    (a,), (b,) = report["a"], report["b"]
    changed = {k for k, v in final["model"].items() if not torch.equal(v, calibrated["model"][k])}
    assert changed == {"head.cls_score.weight", "head.cls_score.bias"}
    weight, bias = (final["model"][f"head.cls_score.{k}"].double() for k in ("weight", "bias"))
    assert torch.allclose(calibrated["model"]["head.cls_score.weight"].double(), a * weight, rtol=1e-5)
    assert torch.allclose(calibrated["model"]["head.cls_score.bias"].double(), a * bias + b, atol=1e-5)
    assert calibrated["calibration"] == {"data": "tiny_train", "a": [a], "b": [b]}
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"  # what --resume goes on from
    # So few objects do not tell whether the error falls; that is for a data set's size (benchmarks/calibration.py).
    assert a > 0 and report["after"]["true"] == report["before"]["true"]
    assert not list(folder.glob(".*"))


def test_command_gives_what_the_training_did(trained, tmp_path, capsys):
    cfg, folder = trained
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump())
    words = ["calibrate", "--config-file", str(file), "--dataset", "tiny_train"]
    out = ["--output", str(tmp_path / "out.pth")]
    assert paramap([*words, *out, "--weights", str(folder / "model_final.pth")]) == 0
    assert "F1 at 0.5" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report == json.loads((folder / "calibration.json").read_text())
    # Calibrated once more, it stays as it is.
    again = ["--output", str(tmp_path / "again.pth"), "--weights", str(tmp_path / "out.pth")]
    assert paramap([*words, *again]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["a"] == pytest.approx([1], abs=1e-3) and again["b"] == pytest.approx([0], abs=1e-3)
    assert paramap([*words, *out, "--weights", str(tmp_path / "again.pth"), "--per-class"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["a"]) == len(report["b"]) == 3 and len(set(report["a"])) > 1


def test_lazy_config_gives_the_same_calibration(trained, tmp_path, capsys):
    cfg, folder = trained
    lazy_cfg = read_lazy_config(
        CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py",
        [
            "dataloader.test.mapper.augmentations.0.short_edge_length=96",
            "dataloader.train.total_batch_size=2",
            "train.device=cpu",
            "train.calibrate_on=tiny_train",
        ],
    )
    check_lazy_config(lazy_cfg)
    model = lazy.build_model(lazy_cfg)
    DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
    found = calibrate(model, lazy.build_calibration_loader(lazy_cfg, "tiny_train"), "tiny_train")
    report = json.loads((folder / "calibration.json").read_text())
    assert found.report["a"] == pytest.approx(report["a"], rel=1e-4)
    words = ["calibrate", "--config-file", str(CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py")]
    words += ["--dataset", "tiny_train", "--weights", str(folder / "model_final.pth")]
    assert paramap([*words, "--output", str(tmp_path / "out.pth"), "model.num_classes=5"]) == 2
    assert "tiny_train has 3 classes, and the config's detector 5" in capsys.readouterr().err
    assert lazy_cfg.dataloader.test.dataset.names == "shapes_val"  # the config's own stays
    assert LazyConfig.to_py(lazy_cfg)
    del lazy_cfg.dataloader.test.dataset
    with pytest.raises(ConfigError, match="dataloader.test has no dataset.names"):
        check_lazy_config(lazy_cfg)


def test_saturated_scores_are_fitted_by_their_logits(trained):
    cfg, folder = trained
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
    report = json.loads((folder / "calibration.json").read_text())
    with folded(model, Calibration((1.0,), (30.0,))):  # every sigmoid is 1
        found = calibrate(model, Trainer.build_calibration_loader(cfg, "tiny_train"), "tiny_train")
    assert found.before.scores.min() > 0.9999
    assert found.report["a"] == pytest.approx(report["a"], rel=1e-3)
    assert found.report["b"] == pytest.approx([report["b"][0] - 30 * report["a"][0]], rel=1e-3)
    assert found.report["after"]["AP"] == pytest.approx(report["after"]["AP"], abs=0.2)  # logits near 30 are coarse


def test_weights_and_threshold_are_as_before_whatever_happens(trained, monkeypatch):
    cfg, folder = trained
    model = Trainer.build_model(cfg)
    model.test_score_thresh = 0.3
    fail = types.SimpleNamespace(after=2)

    def detections(*args):
        fail.after -= 1
        if fail.after <= 0:
            raise RuntimeError("out of memory")
        return found

    loader = Trainer.build_calibration_loader(cfg, "tiny_train")
    DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = engine._detections(model, loader, "tiny_train")
    monkeypatch.setattr(engine, "_detections", detections)
    with pytest.raises((RuntimeError, UserError)):
        calibrate(model, loader, "tiny_train")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.test_score_thresh == 0.3
    assert not score_layer(model).layer._forward_hooks


def test_a_detector_that_learnt_nothing_ends_its_training_with_one_line(tiny, tmp_path, caplog):
    cfg = read_config(RETINANET, [*tiny, "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "1"])
    model = Trainer.build_model(cfg)
    with torch.no_grad():
        model.head.cls_score.weight.zero_()  # all scores are the same
    hook = CalibrationHook(model, "tiny_val", lambda: Trainer.build_calibration_loader(cfg, "tiny_val"), str(tmp_path))
    hook.trainer = types.SimpleNamespace(iter=1, max_iter=1)
    hook.before_train()
    hook.after_train()
    (line,) = {r.getMessage() for r in caplog.records if "not calibrated" in r.getMessage()}
    assert "tiny_val" in line and "\n" not in line
    assert not list(tmp_path.iterdir())
    caplog.clear()
    hook.trainer.max_iter = 5  # a training that failed after the first iteration
    hook.after_train()
    assert not caplog.records


def test_a_training_whose_calibrated_detector_cannot_be_kept_ends_with_one_line(trained, tmp_path, caplog):
    cfg, _ = trained
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(trained[1] / "model_final.pth"))
    (tmp_path / "a_file").touch()
    hook = engine.CalibrationHook(
        model, "tiny_val", lambda: Trainer.build_test_loader(cfg, "tiny_val"), tmp_path / "a_file"
    )
    hook.trainer = types.SimpleNamespace(iter=9, max_iter=9)
    hook.after_train()
    assert "cannot be kept in" in caplog.text and "Calibrated scores" not in caplog.text


def test_a_detector_without_an_exact_fold_is_told_before_its_training(tiny, tmp_path, caplog):
    opts = [*tiny, "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    cfg = read_config(CONFIGS / "shapes_faster_rcnn_R_18_FPN.yaml", opts)
    CalibrationHook(Trainer.build_model(cfg), "tiny_val", list, str(tmp_path)).before_train()
    assert "softmax" in caplog.text


def test_a_head_of_ones_own_has_no_exact_fold(tiny):
    model = Trainer.build_model(read_config(RETINANET, [*tiny, "MODEL.DEVICE", "cpu"]))
    model.head.cls_score.bias = None
    with pytest.raises(UserError, match="RetinaNetHead has no convolution cls_score with a bias: no calibration"):
        score_layer(model)
    del model.head.cls_score
    with pytest.raises(UserError, match="RetinaNetHead has no convolution cls_score with a bias: no calibration"):
        score_layer(model)


@pytest.mark.parametrize("last, calibrated", [(7, False), (8, True), (9, True)])  # one more: resumed at its end
def test_a_training_that_fails_is_not_calibrated_however_late(trained, tmp_path, monkeypatch, last, calibrated):
    calls = []
    monkeypatch.setattr(engine, "calibrate", lambda *_: calls.append(1) or types.SimpleNamespace(report={}))
    monkeypatch.setattr(engine, "save", lambda *_: None)
    monkeypatch.setattr(engine, "summary", lambda report: "")
    hook = CalibrationHook(None, "tiny_val", list, str(tmp_path))
    hook.trainer = types.SimpleNamespace(iter=last, max_iter=8)
    hook.after_train()
    assert bool(calls) == calibrated


def test_data_that_is_not_there_is_told_before_a_model_is_built(tiny):
    with pytest.raises(UserError, match="nowhere"):
        check_config(read_config(RETINANET, [*tiny, "MODEL.PARAM_AP.CALIBRATE_ON", "nowhere"]))
    with pytest.raises(UserError, match="nowhere"):
        check_lazy_config(
            read_lazy_config(CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py", ["train.calibrate_on=nowhere"])
        )


@pytest.mark.parametrize(
    "change, words",
    [
        (["--output", "out.json"], "must end in .pth"),
        (["--weights", "nowhere.pth"], "--weights is nowhere.pth, which does not exist"),
        (["--weights", "nowhere.pth", "--output", "weights.pth"], "--weights is nowhere.pth, which does not exist"),
        (["MODEL.META_ARCHITECTURE", "ParamRetinaNet"], "registered; did you mean ParamAPRetinaNet"),
        (["--config-file", str(CONFIGS / "lazy/shapes_fcos_R_18_FPN.py"), "train.device=gpu"], "must be a device such"),
        (["--output", "weights.pth"], "weights.pth is the checkpoint to calibrate, which a training resumes from"),
        (["--dataset", "nowhere"], "'nowhere' is not registered"),
        (["--output", "weights.pth/calibrated.pth"], "weights.pth cannot be the output folder"),
        (["INPUT.MIN_SIZE_TEST"], "'INPUT.MIN_SIZE_TEST' at the end has no partner"),
        (["--dataset", "bccd_valid", "--config-file", str(CONFIGS / "lazy/shapes_fcos_R_18_FPN.py")], "not registered"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(change, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"\x80")
    right = ["--config-file", str(RETINANET), "--weights", str(weights), "--dataset", "tiny_val", "--output", "out.pth"]
    assert paramap(["calibrate", *right, *change]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_evaluation_says_that_scores_are_not_calibrated(trained, caplog):
    cfg, folder = trained
    model = Trainer.build_model(cfg)
    warn_if_uncalibrated(model, DetectionCheckpointer(model).load(str(folder / "model_calibrated.pth")))
    assert "paramap calibrate" not in caplog.text
    warn_if_uncalibrated(model, DetectionCheckpointer(model).load(str(folder / "model_final.pth")))
    assert "paramap calibrate" in caplog.text
    caplog.clear()
    cfg = read_config(RETINANET, ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.DEVICE", "cpu"])
    warn_if_uncalibrated(Trainer.build_model(cfg), {})
    assert "paramap calibrate" not in caplog.text


def test_evaluation_gives_figures_of_scores_on_request(trained, tmp_path):
    cfg, folder = trained
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST, cfg.TEST.SCORE_FIGURES = str(tmp_path), ("tiny_train",), True
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(folder / "model_calibrated.pth"))
    scores = Trainer.test(cfg, model)["scores"]
    after = json.loads((folder / "calibration.json").read_text())["after"]
    assert scores["f1@0.5"] == pytest.approx(after["at"]["f1"]) and scores["laece0"] == pytest.approx(after["laece0"])
    assert scores["objects-circle"] == after["classes"]["circle"]["objects"]
    assert (tmp_path / "reliability_tiny_train.png").exists()


def test_the_threshold_that_costs_little():
    found = types.SimpleNamespace(average_precision=lambda t=0.0: (50 - 9 * t, 0) if t < 0.15 else (float("nan"), 0))
    assert fast_threshold(found) == {
        "largest": 0.01,
        "loses": pytest.approx(0.09),
        "0.05 loses": pytest.approx(0.45),
    }


def test_what_cannot_be_written_leaves_nothing(trained, tmp_path, monkeypatch):
    cfg, folder = trained
    model = Trainer.build_model(cfg)
    report = json.loads((folder / "calibration.json").read_text())
    found = engine.Calibrated(Calibration((1.0,), (0.0,)), report, None, None)

    def disk_full(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError):
        save(model, found, tmp_path / "a.pth", tmp_path / "a.json", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    assert "AP" in summary(report)


RANKS = """
import os, sys, torch
import torch.distributed as dist
from detectron2.utils import comm
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/meet", rank=rank, world_size=2)
comm.create_local_process_group(2)
from detectron2.checkpoint import DetectionCheckpointer
from paramap_d2.config import parse_config
from paramap_d2.engine import Trainer
from paramap_d2.engine.calibration import calibrate
cfg = parse_config(open(f"{sys.argv[2]}/config.yaml").read())
model = Trainer.build_model(cfg)
DetectionCheckpointer(model).load(sys.argv[3])
found = calibrate(model, Trainer.build_calibration_loader(cfg, "tiny_train"), "tiny_train")
assert (found.before is None) == (rank == 1)
torch.save(found.report, f"{sys.argv[2]}/report_{rank}.pth")
dist.barrier()  # gloo's threads do not survive a peer that left first
dist.destroy_process_group()
os._exit(0)  # the interpreter's own end now and then finds threads of gloo, and aborts
"""


@pytest.mark.slow
def test_two_ranks_fit_to_the_detections_of_both(trained, tmp_path):
    cfg, folder = trained
    (tmp_path / "ranks.py").write_text(RANKS)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = [sys.executable, str(tmp_path / "ranks.py")]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path), str(folder / "model_final.pth")], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=600)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"report_{rank}.pth", weights_only=True) for rank in range(2))
    alone = json.loads((folder / "calibration.json").read_text())
    assert first == second
    assert first["a"] == pytest.approx(alone["a"], rel=1e-6) and first["after"] == alone["after"]
    assert np.isfinite(first["b"]).all()
