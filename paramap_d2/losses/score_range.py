"""How far scores reach, and what a loss is worth beyond that: plain numbers on a CPU; elsewhere tensors, for which
nobody waits."""

from __future__ import annotations

import torch
from torch import Tensor

Scalar = float | Tensor
Sane = bool | Tensor


def highest(scores: Tensor) -> Scalar:
    """Of all; NaN if one is NaN, −inf of none. On a CPU by one thread."""
    if scores.is_cpu:
        return float(scores.numpy().max()) if scores.numel() else -torch.inf
    return scores.amax() if scores.numel() else scores.new_full((), -torch.inf)


def lowest(scores: Tensor) -> Scalar:
    """Of all; NaN if one is NaN, inf of none. On a CPU by one thread."""
    if scores.is_cpu:
        return float(scores.numpy().min()) if scores.numel() else torch.inf
    return scores.amin() if scores.numel() else scores.new_full((), torch.inf)


def nan_unless(sane: Sane, value: Tensor) -> Tensor:
    """The value, still connected to what it came from, or NaN."""
    if sane is True:
        return value
    return torch.where(torch.as_tensor(sane, device=value.device), value, torch.nan)
