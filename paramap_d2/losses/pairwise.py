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

CHUNK_PAIRS = 2**16
"""Pairs held at once on a CPU: few enough for what is made of them to stay near the processor."""

CHUNK_PAIRS_OF_A_GPU = 2**19
"""Held at once on a GPU, where every operation costs its start; their temporaries come to some 30 MB in float64."""

CHUNK_SAMPLES = 2**13
"""Samples held at once when the positives are too many for one chunk."""

OfDifferences = Callable[[Tensor], Tensor]
"""From differences of scores to values of the same shape."""


def sums_over_samples(
    scores: Tensor,
    anchor: Tensor,
    functions: Sequence[OfDifferences],
    lowest: Tensor | None = None,
    weight: Tensor | None = None,
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


def _pairs_at_once(scores: Tensor) -> int:
    return CHUNK_PAIRS if scores.is_cpu else CHUNK_PAIRS_OF_A_GPU


def _chunks(scores: Tensor, lowest: Tensor | None, positives: int) -> Iterator[Tensor]:
    """Indices of the scores above −inf and at or above ``lowest``, in runs."""
    step = max(CHUNK_SAMPLES, _pairs_at_once(scores) // max(1, positives))
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
    step = max(1, _pairs_at_once(samples) // len(samples))
    for start in range(0, len(anchor), step):
        run = slice(start, start + step)
        yield run, samples - anchor[run, None]


class PairwiseSums:
    """The same as :class:`paramap_d2.losses.ranking_sums.BucketSums`, for functions of any shape and scores of any
    size; anchors may be empty."""

    def __init__(
        self,
        scores: Tensor,
        anchor: Tensor,
        numerator: RankingFunction,
        denominator: RankingFunction,
        rated: Tensor,
        extra: Tensor,
        base_weight: float,
    ):
        self._scores, self._anchor = scores, anchor = scores, anchor.to(scores.dtype)
        self._functions = numerator, denominator
        self._rated_scores, self._extra, self._base_weight = scores[rated], extra, base_weight
        self._lowest = lowest_window(anchor, self._functions) if len(anchor) else None
        of_all = [f.of_difference for f in self._functions] + [f.slope_of_difference for f in self._functions]
        sums = sums_over_samples(scores, anchor, of_all, self._lowest, None)
        sums[::2] *= base_weight
        sums[::2] += sums_over_samples(self._rated_scores, anchor, of_all[::2], None, extra)
        self.sums, self.slopes = sums[:2], sums[2:]

    def gradient(self, grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of = [f.slope_of_difference for f in self._functions]
        plain = {of[0]: self._base_weight * grads[0]}
        for slope, weight in zip(of[1:], grads[1:], strict=False):
            plain[slope] = plain.get(slope, 0) + weight
        of_rated = sums_over_positives(self._rated_scores, self._anchor, plain)
        of_rated += self._extra * sums_over_positives(self._rated_scores, self._anchor, {of[0]: grads[0]})
        value = {self._functions[0].of_difference: grads[0]}
        return self._at_samples(plain), of_rated, sums_over_positives(self._rated_scores, self._anchor, value)

    def of_samples(self, weight: Tensor) -> Tensor:
        return self._at_samples({self._functions[0].of_difference: weight})

    def _at_samples(self, terms: Mapping[OfDifferences, Tensor]) -> Tensor:
        result = torch.zeros_like(self._scores)
        for index in _chunks(self._scores, self._lowest, len(self._anchor)):
            result[index] = sums_over_positives(self._scores[index], self._anchor, terms).to(result.dtype)
        return result


class PairwiseSumsOfEach:
    """The same for several rankings of equal sizes, one after the other: scores (L, n), anchor (L, A)."""

    def __init__(
        self,
        scores: Tensor,
        anchor: Tensor,
        numerator: RankingFunction,
        denominator: RankingFunction,
        rated: Tensor,
        extra: Tensor,
        base_weight: float,
    ):
        n = scores.shape[1]
        sizes = (rated // n).bincount(minlength=len(scores)).tolist()
        rows = zip(scores, anchor, (rated % n).split(sizes), extra.split(sizes), strict=True)
        self._each = [PairwiseSums(s, a, numerator, denominator, r, e, base_weight) for s, a, r, e in rows]
        self.sums, self.slopes = (torch.cat([getattr(x, k) for x in self._each], 1) for k in ("sums", "slopes"))

    def gradient(self, grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = zip(self._each, grads.chunk(len(self._each), 1), strict=True)
        scores, rated, weights = (torch.cat(x) for x in zip(*(sums.gradient(g) for sums, g in parts), strict=True))
        return scores, rated, weights
