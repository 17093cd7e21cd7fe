"""How well a predicted box fits its object, in [0, 1]: the quality of a positive."""

from __future__ import annotations

import torch
from torch import Tensor


def box_quality(predicted: Tensor, target: Tensor, kind: str = "giou") -> Tensor:
    """Quality of boxes, box by box.

    Args:
        predicted: (P, 4) boxes (x0, y0, x1, y1), differentiable.
        target: (P, 4) the ground truth that each is matched to.
        kind: ``giou``: (GIoU + 1)/2 (the paper's); ``iou``: the intersection over union; ``l1``: exp(−d), d the mean
            distance of the four sides in units of the target's width and height.

    Returns:
        (P,) of the wider of float32 and predicted's type.

    Raises:
        ValueError: another kind, or shapes that differ.
    """
    if kind not in QUALITIES:
        raise ValueError(f"box quality must be one of {', '.join(QUALITIES)}, not {kind!r}")
    if predicted.shape != target.shape or predicted.shape[1:] != (4,):
        raise ValueError(f"boxes must be (P, 4) twice, not {tuple(predicted.shape)} and {tuple(target.shape)}")
    if predicted.dtype in (torch.float16, torch.bfloat16):
        predicted = predicted.float()
    return QUALITIES[kind](predicted, target.to(predicted.dtype))


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union areas. Boxes turned inside out count as empty."""
    size_a, size_b = ((x[:, 2:] - x[:, :2]).clamp(min=0) for x in (a, b))
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    intersection = inner.prod(1)
    return intersection, size_a.prod(1) + size_b.prod(1) - intersection


def _iou(predicted: Tensor, target: Tensor) -> Tensor:
    intersection, union = _overlap(predicted, target)
    return intersection / union.clamp(min=1e-7)


def _giou(predicted: Tensor, target: Tensor) -> Tensor:
    intersection, union = _overlap(predicted, target)
    hull = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    hull = hull.prod(1).clamp(min=1e-7)
    giou = intersection / union.clamp(min=1e-7) - (hull - union) / hull
    return (giou + 1) / 2


def _l1(predicted: Tensor, target: Tensor) -> Tensor:
    size = (target[:, 2:] - target[:, :2]).clamp(min=1e-7)
    return torch.exp(-((predicted - target).abs() / torch.cat([size, size], dim=1)).mean(1))


QUALITIES = {"giou": _giou, "iou": _iou, "l1": _l1}
