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
            to the scores and qualities; NaN or +inf in what is given makes their sum NaN.
        """
        raise NotImplementedError

    def terms_of_each(self, scores: Tensor, positives: Tensor, *qualities: Tensor) -> APLossTerms:
        """Several rankings of equal sizes, each with a loss of its own, such as those of a decoder's layers.

        Args:
            scores: (L, N).
            positives: (L, P) int64 indices into each row of scores.
            qualities: (L, P) each.

        Returns:
            (L,) each: the :meth:`terms` of every row.
        """
        rows = zip(scores, positives, *qualities, strict=True)
        return APLossTerms(*(torch.stack(term) for term in zip(*(self.terms(*row) for row in rows), strict=True)))


def check_grad_scale(value: Any) -> None:
    """
    Raises:
        ValueError: it is no positive number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"grad_scale must be a positive number, not {value!r}")
