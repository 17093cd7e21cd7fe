"""AP Loss (Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from .counts_above import CountsAbove, soft_step
from .ranking_loss import (
    APLossTerms,
    RankingLoss,
    in_working_type,
    nothing_to_rank,
    poison,
    with_gradient_times,
)

STEP = soft_step(1.0)
"""H, with the paper's δ = 1."""


class APLoss(RankingLoss):
    """1 − AP of the samples, with the paper's error-driven update in the place of a gradient; for the boxes, GIoU::

        L = 1/|P| · Σ_{i∈P} Σ_{j∈N} L_ij  +  1/|P| · Σ_{i∈P} (1 − GIoU_i)
        L_ij = H(s_j − s_i) / (1 + Σ_{k∈P∪N, k≠i} H(s_k − s_i))

    The AP is the interpolated one (the paper's Algorithm 1): where a positive of lower score has a higher precision,
    the L_ij of i are scaled down so that 1 − Σ_j L_ij is that precision. The update of a negative's score is
    Σ_i L_ij / |P|, that of a positive's −Σ_j L_ij / |P|.

    Takes N·P time, pair by pair in chunks of bounded memory. With several processes each ranks its own batch.

    Args:
        grad_scale: factor on the gradient of the boxes.
    """

    qualities = ("giou",)

    def extra_repr(self) -> str:
        return f"grad_scale={self.grad_scale:g}"

    def terms(self, scores: Tensor, positives: Tensor, giou: Tensor) -> APLossTerms:
        """As :meth:`RankingLoss.terms`.

        Args:
            giou: (P,) (GIoU + 1)/2 of the positives' boxes.
        """
        scores = in_working_type(scores)
        if len(positives) == 0:
            return nothing_to_rank(scores, giou)
        ranking = _ErrorOfRanking.apply(scores, positives)
        boxes = 2 * (1 - giou).mean()
        return APLossTerms(
            ranking.to(scores.dtype) + poison(scores, giou),
            with_gradient_times(boxes, self.grad_scale).to(scores.dtype),
        )


class _ErrorOfRanking(torch.autograd.Function):
    """The mean over positives of 1 − their interpolated precision, from scores and the positives' indices."""

    @staticmethod
    def forward(ctx, scores, positives):
        above = CountsAbove(scores, positives, STEP)
        rank = 1 + above.positives + above.negatives
        error = above.negatives / rank
        order = scores.take(positives).argsort()
        lowest = error[order].cummin(0).values
        interpolated = torch.empty_like(error).index_copy_(0, order, lowest)
        # L_ij = H / rank, scaled by interpolated / error. Where no negative is above, H is 0 for all of them.
        ctx.above, ctx.weight = above, interpolated / above.negatives.clamp(min=1e-12)
        ctx.save_for_backward(positives, interpolated)
        return interpolated.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        positives, interpolated = ctx.saved_tensors
        grad = grad.double() / len(positives)
        update = ctx.above.update(ctx.weight * grad)
        return update.index_copy_(0, positives, (-interpolated * grad).to(update.dtype)), None
