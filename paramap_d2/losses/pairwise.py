"""The two sums of the loss over all pairs, pair by pair: for functions of any shape and scores of any size.

Costs N·P time. Samples and positives are both taken in runs, so that no more than ``CHUNK_PAIRS`` pairs are held at
once and, but for the gradient, nothing of the length of the scores. :mod:`.ranking_sums` gives the same sums in
O((N + P) log P) for the functions it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .functions import RankingFunction

CHUNK_PAIRS = 2**19
"""Pairs held at once; their temporaries come to some 30 MB in float64."""

CHUNK_SAMPLES = 2**13
"""Samples held at once when the positives are too many for one chunk."""

OfDifferences = Callable[[Tensor], Tensor]
"""From differences of scores to values of the same shape."""


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


def sums_over_samples(
    scores: Tensor, anchor: Tensor, functions: Sequence[OfDifferences], lowest: Tensor | None, weight: Tensor | None
) -> Tensor:
    """Σ_j w_j f(s_j − a_i) for every f and a_i, over the scores s_j above −inf and at or above ``lowest``.

    Args:
        scores: (n,).
        anchor: (P,).
        functions: F of them; one that occurs twice is evaluated once.
        lowest: scalar; every f is 0 below it. None: no such score is known.
        weight: (n,) float64 or None for weights of 1.

    Returns:
        (F, P) float64.
    """
    sums = torch.zeros(len(functions), len(anchor), dtype=torch.float64, device=scores.device)
    for index in _chunks(scores, lowest, len(anchor)):
        of_chunk = None if weight is None else weight[index]
        for run, d in _differences(scores[index], anchor):
            value = {
                f: f(d).sum(1, dtype=torch.float64) if of_chunk is None else f(d).double() @ of_chunk
                for f in set(functions)
            }
            for row, f in zip(sums, functions, strict=True):
                row[run] += value[f]
    return sums


def sums_over_positives(samples: Tensor, anchor: Tensor, terms: Mapping[OfDifferences, Tensor]) -> Tensor:
    """Σ_i Σ_f g_i f(s_j − a_i) for every sample; 0 for one at −inf.

    Args:
        samples: (n,).
        anchor: (P,).
        terms: for every f its (P,) float64 weights g.

    Returns:
        (n,) float64.
    """
    result = torch.zeros(len(samples), dtype=torch.float64, device=samples.device)
    for index in _chunks(samples, None, len(anchor)):
        of_chunk = torch.zeros(len(index), dtype=torch.float64, device=samples.device)
        for run, d in _differences(samples[index], anchor):
            for f, weight in terms.items():
                of_chunk += weight[run] @ f(d).double()
        result[index] = of_chunk
    return result


def lowest_window(anchor: Tensor, functions: Sequence[RankingFunction]) -> Tensor | None:
    """A score below which every function is 0 for every positive. (2 below the lowest and not 1, for the rounding of
    the difference. A positive at −inf has a window below every finite score.)"""
    return anchor.amin() - 2 if all(function.saturates for function in functions) else None


def _chunks(scores: Tensor, lowest: Tensor | None, positives: int) -> Iterator[Tensor]:
    """Indices of the scores above −inf and at or above ``lowest``, in runs."""
    step = max(CHUNK_SAMPLES, CHUNK_PAIRS // max(1, positives))
    for start in range(0, len(scores), step):
        part = scores[start : start + step]
        kept = part > -torch.inf
        if lowest is not None:
            kept &= part >= lowest
        index = kept.nonzero().squeeze(1)
        if len(index):
            yield index.add_(start)


def _differences(samples: Tensor, anchor: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Runs of positives, with the differences (run, samples) that belong to them."""
    step = max(1, CHUNK_PAIRS // len(samples))
    for start in range(0, len(anchor), step):
        run = slice(start, start + step)
        yield run, samples - anchor[run, None]


class _PairwiseSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, positives, rated, rated_weight, base_weight, numerator, denominator):
        anchor = scores[positives]
        functions = numerator.of_difference, denominator.of_difference
        if ctx.needs_input_grad[0]:
            functions += numerator.slope_of_difference, denominator.slope_of_difference
        sums = sums_over_samples(scores, anchor, functions, lowest_window(anchor, (numerator, denominator)), None)
        sums[::2] *= base_weight
        sums[::2] += sums_over_samples(scores[rated], anchor, functions[::2], None, rated_weight.double() - base_weight)
        ctx.save_for_backward(scores, positives, rated, rated_weight, sums[2:])
        ctx.others = base_weight, numerator, denominator
        ctx.set_materialize_grads(False)
        return sums[0], sums[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_numerator, grad_denominator):
        scores, positives, rated, rated_weight, slopes = ctx.saved_tensors
        base_weight, numerator, denominator = ctx.others
        anchor, rated_scores = scores[positives], scores[rated]
        nothing = torch.zeros(len(anchor), dtype=torch.float64, device=scores.device)
        to_numerator = nothing if grad_numerator is None else grad_numerator
        to_denominator = nothing if grad_denominator is None else grad_denominator
        grad = grad_weight = None
        if ctx.needs_input_grad[3]:
            values = sums_over_positives(rated_scores, anchor, {numerator.of_difference: to_numerator})
            grad_weight = values.to(rated_weight.dtype)
        if ctx.needs_input_grad[0]:
            terms = {numerator.slope_of_difference: base_weight * to_numerator}
            if grad_denominator is not None:
                slope = denominator.slope_of_difference
                terms[slope] = terms.get(slope, nothing) + to_denominator
            grad = torch.zeros_like(scores)
            for index in _chunks(scores, lowest_window(anchor, (numerator, denominator)), len(anchor)):
                grad[index] = sums_over_positives(scores[index], anchor, terms).to(grad.dtype)
            # A rated sample's own weight, and the other role of a positive's score: every difference it is subtracted
            # in. The parts of a positive's gradient cancel, so they are added before they are rounded.
            terms = {numerator.slope_of_difference: to_numerator}
            of_rated = sums_over_positives(rated_scores, anchor, terms) * rated_weight.double()
            if grad_denominator is not None:
                of_rated += sums_over_positives(rated_scores, anchor, {denominator.slope_of_difference: to_denominator})
            of_rated[: len(anchor)] -= to_numerator * slopes[0] + to_denominator * slopes[1]
            grad.index_copy_(0, rated, of_rated.to(grad.dtype))
        return grad, None, None, grad_weight, None, None, None
