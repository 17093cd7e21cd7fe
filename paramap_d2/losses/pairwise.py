"""The two sums of the loss over all pairs, pair by pair: for functions that are not piecewise linear.

Costs N·P time, in chunks of bounded memory. :mod:`.ranking_sums` gives the same sums for piecewise-linear functions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .functions import RankingFunction

CHUNK_PAIRS = 2**20
"""Pairs held at once; a chunk's temporaries come to some 40 MB in float64."""


def pairwise_sums(
    scores: Tensor,
    positives: Tensor,
    rated: Tensor,
    rated_weight: Tensor,
    base_weight: float,
    numerator: RankingFunction,
    denominator: RankingFunction,
) -> tuple[Tensor, Tensor]:
    """The same sums as :func:`paramap_d2.losses.ranking_sums.ranking_sums`, for any functions and any finite scores."""
    return _PairwiseSums.apply(scores, positives, rated, rated_weight, base_weight, numerator, denominator)


def _chunks(anchor: Tensor, samples: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Runs of positives, with the differences (run, samples) that belong to them."""
    step = max(1, CHUNK_PAIRS // max(1, len(samples)))
    for start in range(0, len(anchor), step):
        run = slice(start, start + step)
        yield run, samples - anchor[run, None]


class _PairwiseSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, positives, rated, rated_weight, base_weight, numerator, denominator):
        anchor = scores[positives]
        lowest = -torch.inf
        if numerator.saturates and denominator.saturates:
            # Everything below all windows adds nothing (2 and not 1, for the rounding of the difference). A positive
            # at −inf has a window below every finite score.
            lowest = anchor.amin() - 2
        kept = ((scores > -torch.inf) & (scores >= lowest)).nonzero().squeeze(1)
        samples = scores[kept]
        weight = torch.full(scores.shape, base_weight, dtype=torch.float64, device=scores.device)
        weight[rated] = rated_weight.double()
        weight = weight[kept]
        sums = torch.empty(2, len(anchor), dtype=torch.float64, device=scores.device)
        for run, d in _chunks(anchor, samples):
            sums[0, run] = numerator.of_difference(d).double() @ weight
            sums[1, run] = denominator.of_difference(d).sum(1, dtype=torch.float64)
        ctx.save_for_backward(scores, positives, rated, rated_weight, kept, weight)
        ctx.functions = numerator, denominator
        return sums[0], sums[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_numerator, grad_denominator):
        scores, positives, rated, rated_weight, kept, weight = ctx.saved_tensors
        numerator, denominator = ctx.functions
        anchor, samples = scores[positives], scores[kept]
        grad_sample = torch.zeros_like(weight)
        grad_anchor = torch.empty_like(grad_numerator)
        grad_weight = torch.zeros_like(weight)
        blocked = not grad_denominator.any()
        for run, d in _chunks(anchor, samples):
            slope = numerator.slope_of_difference(d).double() * weight * grad_numerator[run, None]
            if not blocked:
                slope += denominator.slope_of_difference(d).double() * grad_denominator[run, None]
            grad_sample += slope.sum(0)
            grad_anchor[run] = -slope.sum(1)
            grad_weight += grad_numerator[run] @ numerator.of_difference(d).double()
        grad = torch.zeros(scores.shape, dtype=torch.float64, device=scores.device)
        grad[kept] = grad_sample
        grad.index_add_(0, positives, grad_anchor)
        full = torch.zeros(scores.shape, dtype=torch.float64, device=scores.device)
        full[kept] = grad_weight
        return grad.to(scores.dtype), None, None, full[rated].to(rated_weight.dtype), None, None, None
