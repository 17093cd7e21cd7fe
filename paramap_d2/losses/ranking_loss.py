"""What every loss of this package is to a detection head: logits and box qualities in, two terms out."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class APLossTerms(NamedTuple):
    """The two terms of a loss, scalars; the loss is their sum."""

    ranking: Tensor
    localization: Tensor


class RankingLoss(nn.Module):
    """A loss that ranks all samples of a batch against each other. A head needs to know no more of it than
    ``qualities`` and :meth:`terms`.

    Args:
        grad_scale: factor on the gradient that reaches the qualities, and with them the box branch; the value of the
            loss does not change.

    Raises:
        ValueError: ``grad_scale`` is not positive.
    """

    qualities: tuple[str, ...] | None = None
    """The kinds of :func:`paramap_d2.losses.box_quality` that :meth:`terms` takes, in their order; None: one, of the
    user's choice."""

    def __init__(self, grad_scale: float = 1.0):
        super().__init__()
        check_grad_scale(grad_scale)
        self.grad_scale = float(grad_scale)

    def terms(self, scores: Tensor, positives: Tensor, *qualities: Tensor) -> APLossTerms:
        """
        Args:
            scores: (N,) logits, differentiable; ignored samples stand at −inf.
            positives: (P,) int64 indices into scores.
            qualities: (P,) each, of the positives, differentiable.

        Returns:
            Scalars of the scores' type (float32 for half precision). Without a positive they are 0 and still connected
            to the scores and qualities; NaN or +inf in what is given makes them NaN.
        """
        raise NotImplementedError


def check_grad_scale(value: Any) -> None:
    """
    Raises:
        ValueError: it is no positive number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"grad_scale must be a positive number, not {value!r}")


def in_working_type(scores: Tensor) -> Tensor:
    """Half precision as float32."""
    return scores if scores.dtype == torch.float64 else scores.float()


def poison(scores: Tensor, *qualities: Tensor) -> Tensor:
    """NaN where a score is NaN or +inf or a quality no finite number, else 0; a scalar of the scores' type."""
    peak = scores.detach().amax().clamp(min=0) if len(scores) else scores.new_zeros(())
    probe = peak + sum(quality.detach().sum(dtype=torch.float64) for quality in qualities)
    return (probe - probe).to(scores.dtype)


def nothing_to_rank(scores: Tensor, *qualities: Tensor) -> APLossTerms:
    """The terms of a batch without positives."""
    nothing = scores[:0].sum() + sum(quality[:0].sum().to(scores.dtype) for quality in qualities)
    return APLossTerms(nothing + poison(scores, *qualities), nothing.detach())


def with_gradient_times(value: Tensor, factor: float) -> Tensor:
    """The value as it is, its gradient multiplied."""
    return value if factor == 1 else factor * value + (1 - factor) * value.detach()
