"""AP Loss (Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from .error_driven import ErrorDrivenLoss, Errors, soft_step


class APLoss(ErrorDrivenLoss):
    """1 − AP of the samples, with the paper's error-driven update in the place of a gradient; for the boxes, GIoU::

        L = 1/|P| · Σ_{i∈P} Σ_{j∈N} L_ij  +  1/|P| · Σ_{i∈P} (1 − GIoU_i)
        L_ij = H(s_j − s_i) / (1 + Σ_{k∈P∪N, k≠i} H(s_k − s_i))

    The AP is the interpolated one (the paper's Algorithm 1): where a positive of lower score has a higher precision,
    the L_ij of i are scaled down so that 1 − Σ_j L_ij is that precision. The update of a negative's score is
    Σ_i L_ij / |P|, that of a positive's −Σ_j L_ij / |P|.

    Takes O((N + P) log P) time; the interpolation is a running maximum over the sorted positives. (Algorithm 1 takes
    the positives one by one, N·P.)

    Args:
        grad_scale, global_batch: as those of :class:`ErrorDrivenLoss`.
    """

    qualities = ("giou",)
    step = soft_step(1.0)  # the paper's δ = 1

    def errors(self, anchor: Tensor, negatives: Tensor, positives: Tensor, iou: None = None) -> Errors:
        error = negatives / (1 + positives + negatives)
        order = anchor.argsort()
        interpolated = torch.empty_like(error).index_copy_(0, order, error[order].cummin(0).values)
        # L_ij = H / rank, scaled by interpolated / error. Where no negative is above, H is 0 for all of them.
        of_negatives = interpolated / negatives.clamp(min=1e-12)
        share = torch.full_like(error, 1 / error.numel())
        return Errors(interpolated, of_negatives, -interpolated, share)
