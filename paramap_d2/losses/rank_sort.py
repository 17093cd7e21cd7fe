"""RS Loss (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .error_driven import ErrorDrivenLoss, Errors, soft_step

DELTA = 0.5
"""The paper's δ_RS, half the width of H."""

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
    step = soft_step(DELTA)
    balanced = True

    def errors(self, anchor: Tensor, negatives: Tensor, positives: Tensor, iou: Tensor) -> Errors:
        rank = 0.5 + positives + negatives  # H(0) = 1/2 of i itself
        ranking = negatives / rank
        sorting, update = sorting_errors(anchor, iou)
        share = F.logsigmoid(anchor).clamp(min=-1e300).softmax(0)  # σ(s_i) / Σ σ(s), all of them at −inf, too
        return Errors(ranking + sorting, 1 / rank, update - ranking, share)


def sorting_errors(scores: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """ℓ_S − ℓ*_S of every positive, and the update of their scores by it, times |P|; all (P,) float64."""
    order = scores.argsort(descending=True)
    scores, iou = scores[order], iou[order]
    # In falling order those that reach into a positive's window, or above it, come first.
    first = torch.searchsorted(-scores, DELTA - scores, right=True).tolist()
    counted = torch.stack([torch.ones_like(iou), 1 - iou], 1)
    error, update = torch.zeros(2, scores.numel(), dtype=torch.float64, device=scores.device)
    rows = max(1, CHUNK_PAIRS // scores.numel())
    for start in range(0, scores.numel(), rows):
        run, near = slice(start, start + rows), slice(first[min(start + rows, scores.numel()) - 1])
        h = scores[near] - scores[run, None]
        h.nan_to_num_(-torch.inf, torch.inf, -torch.inf)  # two at −inf
        h.diagonal(start).zero_()
        h.div_(2 * DELTA).add_(0.5).clamp_(0, 1)
        wrong = h * (iou[near] < iou[run, None])  # above i with a lower IoU
        others, current = (h @ counted[near]).unbind(1)
        lower, misplaced = (wrong @ counted[near]).unbind(1)
        better = others - lower  # i itself among them
        error[run] = torch.where(lower > 0, current / others - (current - misplaced) / better, 0.0)
        update[near] += (error[run] / lower.clamp(min=1e-12)) @ wrong
        update[run] -= error[run]
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return error[back], update[back]
