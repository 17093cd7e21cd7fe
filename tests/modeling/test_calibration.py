"""Fitting p = σ(a·s + b), and folding a and b into the layer that makes s."""

import copy

import numpy as np
import pytest
import torch
from detectors import DETECTORS, batch, build, config
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from hypothesis import given, settings
from hypothesis import strategies as st

from paramap_d2.errors import UserError
from paramap_d2.modeling.calibration import (
    HIGHEST,
    Calibration,
    all_detections,
    fit_calibration,
    folded,
    score_layer,
)

STOCK_SIGMOID = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"]
SIGMOIDS = {
    "retinanet": ("retinanet", []),
    "stock retinanet": ("retinanet", ["MODEL.META_ARCHITECTURE", "RetinaNet"]),
    "faster_rcnn": ("faster_rcnn", []),
    "class-agnostic faster_rcnn": ("faster_rcnn", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]),
    "stock faster_rcnn": ("faster_rcnn", [*STOCK_SIGMOID, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]),
    "mask_rcnn": ("mask_rcnn", []),
    "deformable_detr": ("deformable_detr", []),
    "deformable_detr, one class head": ("deformable_detr", ["MODEL.DEFORMABLE_DETR.BOX_REFINE", "False"]),
}


def detector(kind):
    name, opts = SIGMOIDS[kind]
    if name == "deformable_detr":
        pytest.importorskip("transformers")
        from detectors import CONFIGS

        from paramap_d2.config import read_config

        cfg: CfgNode = read_config(CONFIGS / "shapes_deformable_detr_R_18.yaml", ["MODEL.DEVICE", "cpu", *opts])
        seed_all_rng(1)
        model = build_model(cfg)
    else:
        model = build(name, *opts)
    layer = score_layer(model).layer
    with torch.no_grad():  # scores that differ more than those of a detector that has not learnt
        layer.weight.mul_(5)
        layer.bias.add_(torch.randn(len(layer.bias), generator=torch.Generator().manual_seed(0)))
    return model.eval()


def detections(model, inputs):
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


def images(count=2):
    return [{"image": item["image"]} for item in batch(count=count)]


@pytest.mark.parametrize("kind", sorted(SIGMOIDS))
def test_folding_gives_the_same_detections_with_calibrated_scores(kind):
    model = detector(kind)
    before = detections(model, images())
    names = {name: value.clone() for name, value in model.state_dict().items()}
    a, b = 0.75, -0.5
    with folded(model, Calibration((a,), (b,))):
        after = detections(model, images())
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, names[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"weight", "bias"}
    for x, y in zip(before, after, strict=True):
        assert len(x) and torch.equal(x.pred_classes, y.pred_classes)
        assert torch.allclose(x.pred_boxes.tensor, y.pred_boxes.tensor, atol=1e-3)
        assert torch.allclose((a * x.scores.double().logit() + b).sigmoid(), y.scores.double(), atol=1e-5)
    assert all(torch.equal(value, names[name]) for name, value in model.state_dict().items())  # put back bit for bit


@pytest.mark.parametrize("kind", sorted(SIGMOIDS))
def test_each_class_gets_its_own(kind):
    model = detector(kind)
    found = score_layer(model)
    calibration = Calibration((0.5, 1.0, 2.0), (-1.0, 0.0, 3.0))
    outputs = []
    handle = found.layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    with torch.no_grad():
        model(images(1))
        first = [found.logits(output) for output in outputs]
        rest = [output.shape[1 if output.dim() == 4 else -1] - found.rows for output in outputs]
        outputs.clear()
        with folded(model, calibration):
            model(images(1))
    handle.remove()
    assert set(rest) == ({1} if "rcnn" in kind else {0})
    # The one class head of all decoder layers is folded once.
    for x, output in zip(first, outputs, strict=True):
        dim = 1 if x.dim() == 4 else -1
        y = found.logits(output)
        for channel in range(x.shape[dim]):
            k = channel % 3
            want = calibration.a[k] * x.select(dim, channel) + calibration.b[k]
            if kind == "deformable_detr" and x is not first[-1]:
                want = x.select(dim, channel)
            assert torch.allclose(y.select(dim, channel), want, atol=1e-4)


def test_the_background_row_is_left_alone():
    model = detector("faster_rcnn")
    layer = score_layer(model).layer
    row = layer.weight[-1].clone(), layer.bias[-1].clone()
    with folded(model, Calibration((2.0,), (1.0,))):
        assert torch.equal(layer.weight[-1], row[0]) and torch.equal(layer.bias[-1], row[1])


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "deformable_detr"])
def test_saturated_sigmoids_do_not_lose_the_order(kind):
    model = detector(kind)
    before = detections(model, images())
    with folded(model, Calibration((1.0,), (40.0,))):
        after = detections(model, images())
    for x, y in zip(before, after, strict=True):
        assert x.scores.unique().numel() > 10 and y.scores.min() == 1
        # Logits around 40 are rounded to 4e-6: a few neighbours may change places.
        same = torch.isclose(x.pred_boxes.tensor, y.pred_boxes.tensor, atol=1e-3).all(1)
        assert (same & (x.pred_classes == y.pred_classes)).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "deformable_detr"])
def test_a_threshold_is_one_of_scores_and_can_be_lifted(kind):
    model = detector(kind)
    whole = detections(model, images(1))[0]
    middle = float(whole.scores.median())
    found = score_layer(model)
    setattr(found.owner, found.threshold, middle)
    assert len(detections(model, images(1))[0]) == pytest.approx(len(whole) / 2, abs=1)
    with all_detections(model):
        assert len(detections(model, images(1))[0]) == len(whole)
    assert getattr(found.owner, found.threshold) == middle
    setattr(found.owner, found.threshold, 1.0)
    assert len(detections(model, images(1))[0]) == 0


@pytest.mark.parametrize(
    "name, opts, words",
    [
        ("cascade_rcnn", [], "means over its stages"),
        ("fcos", [], "centerness"),
        ("faster_rcnn", ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "softmax"),
        ("faster_rcnn", ["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "not known"),
    ],
)
def test_no_exact_fold_is_one_line(name, opts, words):
    assert name in DETECTORS
    with pytest.raises(UserError, match=words) as error:
        score_layer(build(name) if name == "fcos" else build_model(config(name, *opts)))
    assert "\n" not in str(error.value)


def drawn(seed, count, a=2.0, b=1.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(-2, 1.5, count)
    return logits, generator.random(count) < 1 / (1 + np.exp(-(a * logits + b)))


def smoothed(true):
    positives, negatives = true.sum(), (~true).sum()
    return np.where(true, (positives + 1) / (positives + 2), 1 / (negatives + 2))


@given(st.integers(0, 10**6), st.integers(60, 400), st.floats(-40, 30), st.floats(0.05, 20))
@settings(max_examples=40)
def test_fit_is_where_the_likelihood_has_no_slope(seed, count, shift, scale):
    logits, true = drawn(seed, count)
    logits = scale * logits + shift
    if min(true.sum(), (~true).sum()) < 10:
        return
    try:
        a, b = fit_calibration(logits, true)
    except UserError as error:
        assert "no higher" in str(error)
        return
    z = a * logits + b
    slope = 1 / (1 + np.exp(-z)) - smoothed(true)
    if z.max() < HIGHEST - 1e-6:
        assert abs(slope.sum()) < 1e-6 and abs((slope * (logits - shift) / scale).sum()) < 1e-6
    else:  # on the bound: steeper would be more likely
        assert z.max() == pytest.approx(HIGHEST)


def test_fit_finds_what_the_labels_were_drawn_from():
    a, b = fit_calibration(*drawn(0, 100_000))
    assert (a, b) == (pytest.approx(2.0, rel=0.05), pytest.approx(1.0, abs=0.1))


def test_fit_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    logits, true = drawn(3, 300)
    target = smoothed(true)
    weights = np.concatenate([target, 1 - target])  # of each sample as a true one, and as a false one
    model = linear.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(np.tile(logits, 2)[:, None], np.repeat([1, 0], len(logits)), weights)
    assert fit_calibration(logits, true) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-4)


def test_scores_that_tell_all_apart_keep_their_order_in_float32():
    """The likelihood alone would have them a hundred logits from 0."""
    logits = np.concatenate([np.linspace(-5, -4, 2000), np.linspace(-3, -2, 2000)])
    a, b = fit_calibration(logits, logits > -3.5)
    assert a * logits.max() + b <= HIGHEST + 1e-9
    scores = torch.tensor(a * logits + b, dtype=torch.float32).sigmoid()
    # Within 1e-2 of a logit apart they may be equal at the very top, never in the wrong order.
    assert (scores.diff() >= 0).all() and scores.unique().numel() > 3500


@pytest.mark.parametrize(
    "logits, true, words",
    [
        ([], [], "no detections"),
        (np.arange(50), [True] * 50, "50 true and 0 false"),
        (np.arange(50), [False] * 50, "0 true and 50 false"),
        (np.arange(50), [True] * 9 + [False] * 41, "9 true and 41 false"),
        (np.arange(50), [True] * 25 + [False] * 25, "no higher"),
        ([1.0] * 50, [True, False] * 25, "same score"),
    ],
)
def test_detections_that_nothing_can_be_fitted_to(logits, true, words):
    with pytest.raises(UserError, match=words) as error:
        fit_calibration(np.array(logits, dtype=float), np.array(true, dtype=bool))
    assert "\n" not in str(error.value)


def test_the_state_dict_is_the_same_detectors():
    model = detector("retinanet")
    other = copy.deepcopy(model)
    with folded(model, Calibration((2.0,), (1.0,))):
        assert model.state_dict().keys() == other.state_dict().keys()
        other.load_state_dict(model.state_dict())
