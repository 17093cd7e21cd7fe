"""Scores that mean a probability: p = σ(a·s + b), fitted to detections and folded into the layer that makes s."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers
from torch import Tensor, nn

from paramap_d2.errors import UserError

from .deformable_detr import ParamAPDeformableDETR
from .roi_heads import ParamAPFastRCNNOutputLayers

FEWEST = 10
"""True detections, and false ones, below which nothing is fitted."""

LOWEST, HIGHEST = -60.0, 12.0
"""The calibrated logits of the detections that were fitted to are kept between them: beyond, sigmoids of different
logits become equal in float32, and the order of detections would be lost. (Of the highest, those that are a hundredth
apart still differ.)"""


@dataclass(frozen=True)
class Calibration:
    """a and b of p = σ(a·s + b): one of each for all classes, or one for each class in their order."""

    a: tuple[float, ...]
    b: tuple[float, ...]


def fit_calibration(logits: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Platt scaling: the a and b of greatest likelihood, with Platt's smoothed targets, by Newton's method.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood
    Methods" (1999).

    Args:
        logits: (N,) of detections.
        true: (N,) bool, whether each found an object.

    Returns:
        a > 0 and b, of greatest likelihood among those that keep a·s + b within :data:`LOWEST` and :data:`HIGHEST`.

    Raises:
        UserError: too few detections, all true or all false, or scores that are no higher where a detection is true.
    """
    logits, true = np.asarray(logits, dtype=np.float64), np.asarray(true, dtype=bool)
    positives, negatives = int(true.sum()), int((~true).sum())
    if not len(logits):
        raise UserError("there are no detections to calibrate scores by")
    if min(positives, negatives) < FEWEST:
        raise UserError(
            f"scores are calibrated by at least {FEWEST} true and {FEWEST} false detections; "
            f"there are {positives} true and {negatives} false ones"
        )
    first, last = logits.min(), logits.max()
    if first == last:
        raise UserError("every detection has the same score: there is nothing to calibrate")
    target = np.where(true, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # The unknowns are the calibrated logits of the lowest and of the highest score: their bounds are a box.
    share = (logits - first) / (last - first)
    basis = np.stack([1 - share, share])

    def loss(ends: np.ndarray) -> float:
        z = ends @ basis
        return float((np.logaddexp(0, z) - target * z).sum())

    ends = np.full(2, np.log(positives / negatives)).clip(LOWEST, HIGHEST)
    for _ in range(100):
        p = 1 / (1 + np.exp(-(ends @ basis)))
        gradient = basis @ (p - target)
        hessian = (basis * (p * (1 - p))) @ basis.T
        free = ~((ends <= LOWEST) & (gradient > 0) | (ends >= HIGHEST) & (gradient < 0))
        step = np.zeros(2)
        step[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=None)[0]
        now, length = loss(ends), 1.0
        while length > 1e-10 and loss((ends - length * step).clip(LOWEST, HIGHEST)) > now:
            length /= 2
        moved = (ends - length * step).clip(LOWEST, HIGHEST)
        done = np.abs(moved - ends).max() < 1e-12
        ends = moved
        if done:
            break
    a = (ends[1] - ends[0]) / (last - first)
    if not a > 0:
        raise UserError(
            f"true detections score no higher than false ones (a = {a:.3g}): a detector that has learnt nothing "
            f"cannot be calibrated"
        )
    return float(a), float(ends[0] - a * first)


@dataclass(frozen=True)
class ScoreLayer:
    """The last layer that makes a detector's class scores.

    Attributes:
        layer: its output's first ``rows`` channels are logits, channel i of class i modulo ``num_classes``.
        owner, threshold: the module and the name of its attribute that say below which score detections are dropped.
    """

    layer: nn.Linear | nn.Conv2d
    rows: int
    num_classes: int
    owner: nn.Module
    threshold: str

    def logits(self, output: Tensor) -> Tensor:
        """The class logits in the layer's output."""
        return output.narrow(1 if isinstance(self.layer, nn.Conv2d) else -1, 0, self.rows)


def score_layer(model: nn.Module) -> ScoreLayer:
    """Where a detector makes its class scores, each the sigmoid of one logit.

    Raises:
        UserError: the scores of this kind of detector are made otherwise, so that no exact calibration can be folded
            into a layer.
    """
    model = getattr(model, "module", model)  # of DistributedDataParallel
    reason = f"{type(model).__name__}'s scores are not known to be sigmoids of one logit each"
    if isinstance(model, RetinaNet):
        layer = getattr(model.head, "cls_score", None)
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            return ScoreLayer(layer, layer.out_channels, model.num_classes, model, "test_score_thresh")
        reason = f"the head {type(model.head).__name__} has no convolution cls_score with a bias"
    if isinstance(model, ParamAPDeformableDETR):
        # Without box refinement all decoder layers share this one, and it is folded once.
        layer = model.detr.class_embed[-1]
        return ScoreLayer(layer, layer.out_features, model.num_classes, model, "score_thresh")
    if isinstance(model, GeneralizedRCNN):
        predictor = getattr(model.roi_heads, "box_predictor", None)
        if isinstance(model.roi_heads, CascadeROIHeads):
            reason = "Cascade R-CNN's scores are means over its stages"
        elif isinstance(predictor, FastRCNNOutputLayers):
            if isinstance(predictor, ParamAPFastRCNNOutputLayers) or predictor.use_sigmoid_ce:
                # The layer's last row is of the background, and no score.
                classes = predictor.num_classes
                return ScoreLayer(predictor.cls_score, classes, classes, predictor, "test_score_thresh")
            reason = "the scores of these ROI heads are a softmax over all classes"
    elif type(model).__name__.endswith("FCOS"):
        reason = "FCOS multiplies its scores by the centerness"
    raise UserError(f"{reason}: no calibration can be folded into its weights exactly")


@contextlib.contextmanager
def folded(model: nn.Module, calibration: Calibration) -> Iterator[None]:
    """For the length of the context, the detector's scores are σ(a·s + b); then its weights are as before.

    Args:
        calibration: for all classes or for each; for each of the detector's.
    """
    found = score_layer(model)
    kept = [parameter.detach().clone() for parameter in (found.layer.weight, found.layer.bias)]
    try:
        _fold(found, calibration)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip((found.layer.weight, found.layer.bias), kept, strict=True):
                parameter.copy_(value)


@torch.no_grad()
def _fold(found: ScoreLayer, calibration: Calibration) -> None:
    a, b = (_of_rows(values, found) for values in (calibration.a, calibration.b))
    weight, bias = found.layer.weight[: found.rows], found.layer.bias[: found.rows]
    weight.copy_(weight.double() * a.view(-1, *[1] * (weight.dim() - 1)))
    bias.copy_(bias.double() * a + b)


def _of_rows(values: Sequence[float], found: ScoreLayer) -> Tensor:
    if len(values) not in (1, found.num_classes):
        raise ValueError(f"{len(values)} values for {found.num_classes} classes")
    of_class = torch.tensor(values, dtype=torch.float64, device=found.layer.weight.device).expand(found.num_classes)
    return of_class.repeat(found.rows // found.num_classes)


@contextlib.contextmanager
def all_detections(model: nn.Module) -> Iterator[None]:
    """For the length of the context, the detector drops no detection for its low score."""
    found = score_layer(model)
    before = getattr(found.owner, found.threshold)
    setattr(found.owner, found.threshold, 0.0)
    try:
        yield
    finally:
        setattr(found.owner, found.threshold, before)
