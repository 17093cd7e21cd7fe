"""What the loss is measured against: focal loss with L1 or GIoU, and other ways to rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from paramap_d2.losses import APLoss, ParameterizedAPLoss, PiecewiseLinear, RankSortLoss

PAIRS_AT_ONCE = 5_000_000
"""Pairs that the plain form holds at once; all 50 million of the first size would take some gigabytes."""


@dataclass
class Batch:
    scores: Tensor  # (N,)
    quality: Tensor  # (N,), 0 where not positive
    targets: Tensor  # (N,)
    positives: Tensor  # (P,)
    positive_quality: Tensor  # (P,)
    dense_targets: Tensor  # (N,) floats, as focal loss takes them
    deltas: Tensor  # (P, 4)
    target_deltas: Tensor  # (P, 4)
    boxes: Tensor  # (P, 4)
    target_boxes: Tensor  # (P, 4)


def focal_and_l1(_: ParameterizedAPLoss, batch: Batch) -> None:
    """Detectron2's stock pair for RetinaNet, both sums over the number of positives."""
    batch.scores.grad = batch.deltas.grad = None
    box = F.smooth_l1_loss(batch.deltas, batch.target_deltas, beta=0.1, reduction="sum")
    focal = sigmoid_focal_loss(batch.scores, batch.dense_targets, 0.25, 2.0, "sum")
    (focal / len(batch.deltas) + box / len(batch.deltas)).backward()


def focal_and_giou(_: ParameterizedAPLoss, batch: Batch) -> None:
    """The same with a GIoU loss on decoded boxes (their decoding is not counted, nor that of this loss's)."""
    batch.scores.grad = batch.boxes.grad = None
    box = generalized_box_iou_loss(batch.boxes, batch.target_boxes, reduction="sum")
    focal = sigmoid_focal_loss(batch.scores, batch.dense_targets, 0.25, 2.0, "sum")
    (focal / len(batch.boxes) + box / len(batch.boxes)).backward()


def plain_pairwise(loss_fn: ParameterizedAPLoss, batch: Batch) -> None:
    """The loss as its formula stands, over all (positive, sample) pairs, differentiated by autograd; so many
    positives at a time as memory allows, each run's gradient added to the last's."""
    batch.scores.grad = batch.quality.grad = None
    f = {name: _autograd_function(function) for name, function in loss_fn.functions.items()}
    step = max(1, PAIRS_AT_ONCE // len(batch.scores))
    for run in batch.positives.split(step):
        q = batch.quality[run]
        u = ((batch.scores - batch.scores[run, None]) / 2 + 0.5).clamp(0, 1)
        numerator = (f["rank_numerator"](u) * (1 - f["sample_quality"](batch.quality))).sum(1)
        denominator = f["rank_denominator"](u).sum(1).detach()
        terms = 1 - f["positive_quality"](q) + f["positive_weight"](q) * numerator / denominator
        (terms.sum() / len(batch.positives)).backward()


def _autograd_function(function: PiecewiseLinear) -> Callable[[Tensor], Tensor]:
    def value(u: Tensor) -> Tensor:
        x, y, slope = (u.new_tensor(v) for v in (function.x, function.y, function.slopes))
        piece = torch.bucketize(u.detach(), x[1:-1], right=True)
        return y[piece] + slope[piece] * (u - x[piece])

    return value


def our_ap_loss(_: ParameterizedAPLoss, batch: Batch) -> None:
    """AP Loss as ``MODEL.PARAM_AP.LOSS ap-loss`` trains with it, its GIoU term with it."""
    batch.scores.grad = batch.positive_quality.grad = None
    sum(APLoss().terms(batch.scores, batch.positives, batch.positive_quality)).backward()


def our_rank_sort(_: ParameterizedAPLoss, batch: Batch) -> None:
    """RS Loss as ``rank-sort``, likewise."""
    batch.scores.grad = batch.positive_quality.grad = None
    given = batch.positive_quality, batch.positive_quality.detach()
    sum(RankSortLoss().terms(batch.scores, batch.positives, *given)).backward()


def ap_loss(_: ParameterizedAPLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    """AP Loss (Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019, Sec. 3.3), without
    its interpolation: value and error-driven gradient, positive by positive."""
    scores = batch.scores.detach()
    positive = scores[batch.positives]
    negatives = ((batch.targets == 0) & (scores >= positive.amin() - 1)).nonzero().squeeze(1)
    negative = scores[negatives]
    grad = torch.zeros_like(scores)
    precision = torch.zeros((), device=scores.device)
    for i in range(len(positive)):
        above = ((positive - positive[i]) / 2 + 0.5).clamp(0, 1)
        above[i] = 1
        false = ((negative - positive[i]) / 2 + 0.5).clamp(0, 1)
        primary = false / (above.sum() + false.sum())
        grad[negatives] += primary
        grad[batch.positives[i]] -= primary.sum()
        precision += 1 - primary.sum()
    return 1 - precision / len(positive), grad / len(positive)


def alrp_loss(_: ParameterizedAPLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    """aLRP Loss (Oksuz et al., "A Ranking-based, Balanced Loss Function Unifying Classification and Localisation",
    NeurIPS 2020, Eqs. 8 to 11): value and error-driven gradient, positive by positive."""
    scores = batch.scores.detach()
    positive = scores[batch.positives]
    error = 1 - batch.positive_quality.detach()  # of localisation
    negatives = ((batch.targets == 0) & (scores >= positive.amin() - 1)).nonzero().squeeze(1)
    negative = scores[negatives]
    grad = torch.zeros_like(scores)
    total = torch.zeros((), device=scores.device)
    for i in range(len(positive)):
        above = ((positive - positive[i]) / 2 + 0.5).clamp(0, 1)
        above[i] = 1
        false = ((negative - positive[i]) / 2 + 0.5).clamp(0, 1)
        rank = above.sum() + false.sum()
        value = (false.sum() + (above * error).sum()) / rank
        change = (value - error[i] / rank) * false / false.sum().clamp(min=1e-6)
        grad[negatives] += change
        grad[batch.positives[i]] -= change.sum()
        total += value
    return total / len(positive), grad / len(positive)


def rank_sort_loss(_: ParameterizedAPLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    """RS Loss (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021, Eqs. 6 to
    8): value and identity update, positive by positive."""
    scores = batch.scores.detach()
    positive = scores[batch.positives]
    iou = batch.positive_quality.detach()
    negatives = ((batch.targets == 0) & (scores >= positive.amin() - 0.5)).nonzero().squeeze(1)
    negative = scores[negatives]
    grad, of_positives = torch.zeros_like(scores), torch.zeros_like(positive)
    total = torch.zeros((), device=scores.device)
    for i in range(len(positive)):
        above = (positive - positive[i] + 0.5).clamp(0, 1)
        false = (negative - positive[i] + 0.5).clamp(0, 1)
        ranking = false.sum() / (above.sum() + false.sum())
        right = above * (iou >= iou[i])
        wrong = above - right
        sorting = (above * (1 - iou)).sum() / above.sum() - (right * (1 - iou)).sum() / right.sum()
        sorting = torch.where(wrong.sum() > 0, sorting, 0.0)
        grad[negatives] += false * (ranking / false.sum().clamp(min=1e-6))
        of_positives += wrong * (sorting / wrong.sum().clamp(min=1e-6))
        of_positives[i] -= ranking + sorting
        total += ranking + sorting
    grad[batch.positives] = of_positives
    return total / len(positive), grad / len(positive)
