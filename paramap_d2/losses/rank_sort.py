"""RS Loss (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .counts_above import CountsAbove, soft_step
from .ranking_loss import (
    APLossTerms,
    RankingLoss,
    in_working_type,
    nothing_to_rank,
    poison,
    with_gradient_times,
)

STEP = soft_step(0.5)
"""H, with the paper's δ_RS = 0.5."""

CHUNK_PAIRS = 2**18
"""Pairs of positives held at once, some 2 MB in float64 each time they are."""


class RankSortLoss(RankingLoss):
    """Ranks every positive above all negatives and sorts the positives by their IoU, with the paper's identity update
    in the place of a gradient; for the boxes, GIoU::

        L = 1/|P| · Σ_{i∈P} [ ℓ_R(i) + ℓ_S(i) − ℓ*_S(i) ]  +  λ · Σ_{i∈P} σ(s_i) (1 − GIoU_i) / Σ_{i∈P} σ(s_i)
        ℓ_R(i)  = Σ_{j∈N} H(s_j − s_i) / Σ_{j∈P∪N} H(s_j − s_i)
        ℓ_S(i)  = the mean over j∈P, weighted by H(s_j − s_i), of 1 − IoU_j
        ℓ*_S(i) = the same over those alone with IoU_j >= IoU_i

    (Eqs. 6 to 8). The error ℓ_R(i) is taken from the score of i and given to the negatives above it, in proportion to
    H; ℓ_S(i) − ℓ*_S(i) likewise to the positives of lower IoU above it. IoUs are constants here. λ, the paper's
    self-balance, is the value of the first term over that of the second, as a constant: it is computed anew each
    iteration, so that there is no state to keep. A box counts by σ of the score of its own class; the released code
    takes the highest of all classes.

    The ranking part takes N·P time, the sorting part P², both in chunks of bounded memory. With several processes
    each ranks its own batch.

    Args:
        grad_scale: factor on the gradient of the boxes.
    """

    qualities = ("giou", "iou")

    def extra_repr(self) -> str:
        return f"grad_scale={self.grad_scale:g}"

    def terms(self, scores: Tensor, positives: Tensor, giou: Tensor, iou: Tensor) -> APLossTerms:
        """As :meth:`RankingLoss.terms`; the localization term has the value of the ranking term.

        Args:
            giou: (P,) (GIoU + 1)/2 of the positives' boxes.
            iou: (P,) theirs; no gradient flows to it.
        """
        scores = in_working_type(scores)
        if len(positives) == 0:
            return nothing_to_rank(scores, giou, iou)
        ranking = _ErrorOfRankingAndSorting.apply(scores, positives, iou.detach())
        share = F.logsigmoid(scores.detach().take(positives).double()).softmax(0)  # σ(s_i) / Σ σ(s)
        boxes = 2 * share.dot(1 - giou.double())
        balance = ranking.detach() / boxes.detach()
        boxes = boxes * torch.where(boxes.detach() > 0, balance, 0.0)
        return APLossTerms(
            ranking.to(scores.dtype) + poison(scores, giou, iou),
            with_gradient_times(boxes, self.grad_scale).to(scores.dtype),
        )


class _ErrorOfRankingAndSorting(torch.autograd.Function):
    """The mean over positives of the ranking and the sorting error, from scores, the positives' indices and IoUs."""

    @staticmethod
    def forward(ctx, scores, positives, iou):
        above = CountsAbove(scores, positives, STEP)
        rank = 0.5 + above.positives + above.negatives  # H(0) = 1/2 of i itself
        error = above.negatives / rank
        sorting, update = sorting_errors(scores.take(positives).double(), iou.double())
        ctx.above, ctx.weight = above, 1 / rank
        ctx.save_for_backward(positives, update - error)
        return (error + sorting).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        positives, of_positives = ctx.saved_tensors
        grad = grad.double() / len(positives)
        update = ctx.above.update(ctx.weight * grad)
        return update.index_copy_(0, positives, (of_positives * grad).to(update.dtype)), None, None


def sorting_errors(scores: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """ℓ_S − ℓ*_S of every positive, and the update of their scores by it, times |P|; all (P,) float64."""
    error, update = torch.empty_like(scores), torch.zeros_like(scores)
    rows = max(1, CHUNK_PAIRS // len(scores))
    for start in range(0, len(scores), rows):
        run = slice(start, start + rows)
        d = scores - scores[run, None]
        d.masked_fill_(d.isnan(), -torch.inf)  # two at −inf
        d.diagonal(start).zero_()
        h = STEP.of_difference(d)
        wrong = h * (iou < iou[run, None])  # above i with a lower IoU
        right = h - wrong
        others, lower, better = h.sum(1), wrong.sum(1), right.sum(1)
        current, target = h @ (1 - iou), right @ (1 - iou)
        error[run] = torch.where(lower > 0, current / others - target / better, 0.0)
        update += (error[run] / lower.clamp(min=1e-12)) @ wrong
        update[run] -= error[run]
    return error, update
