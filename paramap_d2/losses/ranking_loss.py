"""What every loss of this package is to a detection head: logits and box qualities in, two terms out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .parameterized_ap import APLossTerms


class RankingLoss(nn.Module):
    """A loss that ranks all samples of a batch against each other. A head needs to know no more of it than
    ``qualities`` and :meth:`terms`."""

    qualities: tuple[str, ...] | None = None
    """The kinds of :func:`paramap_d2.losses.box_quality` that :meth:`terms` takes, in their order; None: one, of the
    user's choice."""

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
