"""benchmarks/step.py measures what it says it does."""

import argparse
import json

import pytest
import torch
from detectron2.utils.events import EventStorage

from benchmarks.step import DETECTORS, Step, late, main

SMALL = argparse.Namespace(size=64, images=2, boxes=3)
CONTENDERS = [(detector, name) for detector in DETECTORS for name in DETECTORS[detector]]


@pytest.mark.slow
@pytest.mark.parametrize("detector, name", CONTENDERS)
def test_parts_are_those_of_the_step(detector, name):
    step = Step(*DETECTORS[detector][name], SMALL)
    with EventStorage():
        parts = step.parts()
        again = {part: run() for part, run in parts.items()}
        whole = step()
    heads = [part for part in parts if part.endswith("loss")]
    recorded = {key: value.item() for head in heads for key, value in again[head].items()}
    assert recorded.keys() == whole.keys()
    if name == "focal + L1":  # divides by a running mean of the number of positives, which every call moves
        assert recorded["loss_cls"] / recorded["loss_box_reg"] == pytest.approx(
            (whole["loss_cls"] / whole["loss_box_reg"]).item(), rel=1e-4
        )
    else:
        assert recorded == pytest.approx({key: value.item() for key, value in whole.items()}, rel=1e-4)
    assert {f"{head}, late" for head in heads} == {part for part in parts if part.endswith("late")}
    assert all(p.grad is not None for p in step.model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_all_proposals_are_those_of_this_loss():
    counts = []
    # Stock sampling would leave this loss 16 proposals an image.
    for name, more in (("this loss", ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16]), ("CE + L1, all proposals", [])):
        config, options = DETECTORS["faster_rcnn"][name]
        step = Step(config, options + more, SMALL)
        with EventStorage():
            proposals = step.parts()["ROI targets"]()
        counts.append([len(p) for p in proposals])
    assert counts[0] == counts[1] and min(counts[0]) > 4 * 16


def test_late_lowers_background_alone():
    module = argparse.Namespace(num_classes=80)  # neither RetinaNet nor box predictor: an RPN
    labels = torch.tensor([[1, -1] + [0] * 998] * 2)
    scores = [torch.zeros(2, 600), torch.zeros(2, 400)]
    _, lowered, *_ = late(module, ([], scores, list(labels), [], []))
    lowered = torch.cat(lowered, dim=1)
    assert set(lowered.unique().tolist()) == {-8.0, 0.0}
    assert (lowered[labels != 0] == 0).all()
    assert (lowered[labels == 0] == -8).double().mean() == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_figures_fit_each_other(tmp_path, capsys):
    small = ["--size", "64", "--images", "1", "--boxes", "2", "--repeats", "2", "--threads", "1"]
    main(["--detector", "retinanet", *small, "--json", str(tmp_path / "step.json")])
    result = json.loads((tmp_path / "step.json").read_text())["detectors"]["retinanet"]
    rows = result["contenders"]
    for name, row in rows.items():
        assert row["share"] == pytest.approx(row["parts_ms"]["loss"] / row["step_ms"])
        assert 0 < row["share"] < 1 and 0 < row["late_share"] < 1
        assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
        assert name in capsys.readouterr().out or name != "this loss"
    ours, other = rows.values()
    assert other["ratio"] == 1
    spent = [row["parts_ms"]["loss"] + row["parts_ms"]["targets"] for row in (ours, other)]
    assert result["ratio_by_parts"] == pytest.approx(1 + (spent[0] - spent[1]) / other["step_ms"])


@pytest.mark.parametrize(
    "given, told",
    [
        (["--clock", "cpu"], "--threads 1"),
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["--json", "nowhere/step.json"], "the folder of nowhere/step.json does not exist"),
    ],
)
def test_wrong_options_are_told_in_one_line(given, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
