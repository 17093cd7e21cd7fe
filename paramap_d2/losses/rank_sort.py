"""RS Loss (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .error_driven import ErrorDrivenLoss, Errors, soft_step

CHUNK_PAIRS = 2**18
"""Pairs of positives held at once, some 2 MB in float64 each time they are."""


class RankSortLoss(ErrorDrivenLoss):
    """Ranks every positive above all negatives and sorts the positives by their IoU, with the paper's identity update
    in the place of a gradient; for the boxes, GIoU::

        L = 1/|P| · Σ_{i∈P} [ ℓ_R(i) + ℓ_S(i) − ℓ*_S(i) ]  +  λ · Σ_{i∈P} σ(s_i) (1 − GIoU_i) / Σ_{i∈P} σ(s_i)
        ℓ_R(i)  = Σ_{j∈N} H(s_j − s_i) / Σ_{j∈P∪N} H(s_j − s_i)
        ℓ_S(i)  = the mean over j∈P, weighted by H(s_j − s_i), of 1 − IoU_j
        ℓ*_S(i) = the same over those alone with IoU_j >= IoU_i

    (Eqs. 6 to 8). The error ℓ_R(i) is taken from the score of i and given to the negatives above it, in proportion to
    H; ℓ_S(i) − ℓ*_S(i) likewise to the positives of lower IoU above it. IoUs are constants here. λ, the paper's
    self-balance, is the value of the first term over that of the second, as a constant: it is computed anew each
    iteration, in the paper as in its code, so that there is no state to keep. A box counts by σ of the score of its own
    class; the released code takes the highest of all classes.

    The ranking part takes O((N + P) log P) time, the sorting part, an order in two dimensions, P², in chunks of bounded
    memory.

    Args:
        grad_scale, global_batch: as those of :class:`ErrorDrivenLoss`.
    """

    qualities = ("giou", "iou")
    step = soft_step(0.5)  # the paper's δ_RS = 0.5
    balanced = True

    def errors(self, anchor: Tensor, negatives: Tensor, positives: Tensor, iou: Tensor) -> Errors:
        rank = 0.5 + positives + negatives  # H(0) = 1/2 of i itself
        ranking = negatives / rank
        sorting, update = sorting_errors(anchor, iou)
        share = F.logsigmoid(anchor).softmax(0)  # σ(s_i) / Σ σ(s)
        return Errors(ranking + sorting, 1 / rank, update - ranking, share)


def sorting_errors(scores: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """ℓ_S − ℓ*_S of every positive, and the update of their scores by it, times |P|; all (P,) float64."""
    error, update = torch.empty_like(scores), torch.zeros_like(scores)
    rows = max(1, CHUNK_PAIRS // len(scores))
    for start in range(0, len(scores), rows):
        run = slice(start, start + rows)
        d = scores - scores[run, None]
        d.masked_fill_(d.isnan(), -torch.inf)  # two at −inf
        d.diagonal(start).zero_()
        h = RankSortLoss.step.of_difference(d)
        wrong = h * (iou < iou[run, None])  # above i with a lower IoU
        right = h - wrong
        others, lower, better = h.sum(1), wrong.sum(1), right.sum(1)
        current, target = h @ (1 - iou), right @ (1 - iou)
        error[run] = torch.where(lower > 0, current / others - target / better, 0.0)
        update += (error[run] / lower.clamp(min=1e-12)) @ wrong
        update[run] -= error[run]
    return error, update
