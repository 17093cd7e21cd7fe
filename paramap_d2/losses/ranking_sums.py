"""The two sums of the loss over all pairs, in O((N + A) log A), for piecewise-linear functions.

A positive's score is an *anchor* a; a sample counts for it by f(s − a). The breakpoints of all anchors' functions are
edges that cut the axis of scores into *buckets*, and f(s − a) = Σ_m c_m · max(0, s − e_m) over its own edges e_m, c_m
the change of slope there. So Σ_j w_j f(s_j − a) needs Σ_j w_j max(0, s_j − e) at its edges alone, and that is a prefix
sum over buckets, from the highest scores down, of their counts and their samples' distances to the lower edge. No
sample is ever sorted: N enters by looking up each sample's bucket and by counting.

Backward, Σ_i g_i f'(s_j − a_i) is constant in each bucket: one prefix sum over the changes of slope at the edges, and
every sample reads that of its bucket.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .bucket_lookup import CHUNK, fill_buckets, search
from .functions import PiecewiseLinear

SCORE_LIMIT = 2.0**24
"""Above this, s + 1 is too coarse in float64 for exact edges of the buckets; the pairwise form has no such limit."""

EMPTY_GAP = 2.5
"""Between edges further apart than this lies no anchor's window, which is 2 wide."""

MANY_ANCHORS = 256
"""From here on it pays to sort them before their edges."""


class _Breakpoints(NamedTuple):
    """Numerator (row 0) and denominator (row 1) over the union of their M breakpoints, all float64."""

    at: Tensor  # (M, 1) the negatives of the breakpoints as score differences in [-1, 1]
    change: Tensor  # (2, M, 1) of slope, per unit of difference, at each breakpoint
    minus_change: Tensor  # (2, M, 1)
    ends: tuple[Tensor, Tensor]  # (1,) each: −inf and inf


@lru_cache(maxsize=64)  # a step would else copy these to its device anew
def _breakpoints(numerator: PiecewiseLinear, denominator: PiecewiseLinear, device: torch.device) -> _Breakpoints:
    # In the functions' own argument: 2x − 1 and back may round to the other side of a breakpoint.
    x = torch.tensor(sorted({x for f in (numerator, denominator) for x in f.x}), dtype=torch.float64, device="cpu")
    slope = torch.stack([f.slope(x) / 2 for f in (numerator, denominator)])
    slope[:, -1] = 0
    change = slope.diff(dim=1, prepend=slope.new_zeros(2, 1))
    change = change[:, :, None].to(device)
    low, high = torch.tensor([[-torch.inf], [torch.inf]], dtype=torch.float64, device=device)
    return _Breakpoints((1 - 2 * x)[:, None].to(device), change, -change, (low, high))


class BucketSums:
    """For every anchor a_i: Σ_j w_j · numerator(s_j − a_i) and Σ_j denominator(s_j − a_i), and what their gradients
    are made of. Autograd records none of it.

    Args:
        scores: (N,) float32 or float64. A score of −inf adds 0 to every sum. None may exceed ``SCORE_LIMIT``.
        anchor: (A,) float64, none below −``SCORE_LIMIT``; A > 0.
        numerator, denominator: piecewise-linear functions of the difference.
        rated: (E,) int64 indices of the samples whose weight w_j differs from ``base_weight``, each once.
        extra: (E,) float64: how much their weights exceed ``base_weight``.
        base_weight: w_j of all other samples.

    Attributes:
        sums: (2, A) float64: the two sums.
        slopes: (2, A) float64: the same of the functions' derivatives.
    """

    def __init__(
        self,
        scores: Tensor,
        anchor: Tensor,
        numerator: PiecewiseLinear,
        denominator: PiecewiseLinear,
        rated: Tensor,
        extra: Tensor,
        base_weight: float,
    ):
        at, change, self._minus_change, (low, high) = _breakpoints(numerator, denominator, scores.device)
        self._of_anchor = None
        if anchor.numel() > MANY_ANCHORS:  # M ascending runs, which a merging sort joins in a third of the time
            anchor, self._of_anchor = torch.sort(anchor, descending=True)
        edge, self._order = torch.sort((at - anchor).flatten())  # the negatives of the edges: the highest first
        ends = torch.cat([low, edge, high])
        self._lower = ends[1:]
        width = ends.diff()
        # Distances where no window lies may be huge, and all functions are constant there.
        self._outside = width > EMPTY_GAP
        self._width = width.masked_fill_(self._outside, 0.0)

        self._like = scores
        self._rated, self._extra, self._base_weight = rated, extra, base_weight
        self._kept = _worth_looking_up(scores, edge)
        looked_up = scores if self._kept is None else scores.index_select(0, self._kept)
        self._bucket, count, distance = fill_buckets(looked_up, edge, self._lower)
        rated_scores = scores.index_select(0, rated)
        self._rated_bucket = search(rated_scores, edge)
        self._rated_distance = self._lower.index_select(0, self._rated_bucket).add_(rated_scores).nan_to_num_(0.0, 0.0)

        # (2, 2, B + 1): distances and counts, each with the weights for the numerator and without for the denominator.
        filled = torch.stack([distance, distance, count, count]).unflatten(0, (2, 2))
        if base_weight != 1:
            filled[:, 0] *= base_weight
        filled[:, 0].index_add_(1, self._rated_bucket, torch.stack([extra * self._rated_distance, extra]))
        far, number = filled[0], filled[1]
        number.cumsum_(1)
        far.masked_fill_(self._outside, 0.0)[:, 1:].addcmul_(number[:, :-1], self._width[1:])
        far.cumsum_(1)
        above = torch.empty_like(filled[..., :-1]).index_copy_(2, self._order, filled[..., :-1])
        result = above.unflatten(2, (-1, anchor.numel())).mul_(change).sum(2)
        if self._of_anchor is not None:
            result = torch.empty_like(result).index_copy_(2, self._of_anchor, result)
        self.sums, self.slopes = result[0], result[1]

    def _slope_tables(self, grads: Tensor) -> Tensor:
        """(rows, A) g to (rows, B + 1): Σ_i g_i f'(s − a_i) for s in every bucket."""
        in_order = grads if self._of_anchor is None else grads.index_select(1, self._of_anchor)
        changes = self._minus_change[: grads.shape[0]] * in_order[:, None]
        # All changes of a function add up to 0: what is below is what is above with its sign turned.
        table = grads.new_zeros(grads.shape[0], self._lower.numel())
        torch.cumsum(changes.flatten(1).index_select(1, self._order), 1, out=table[:, 1:])
        return table.masked_fill_(self._outside, 0.0)

    def gradient(self, grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The samples' part of the gradient; the anchors' is −Σ grads · slopes.

        Args:
            grads: (2, A) float64, of the sums; (1, A) where the denominator is held constant.

        Returns:
            (N,) of the scores, in their type, of no meaning at the rated samples; (E,) float64 of the rated samples'
            scores; (E,) float64 of their weights.
        """
        tables = self._slope_tables(grads)
        plain = tables[0] if self._base_weight == 1 else self._base_weight * tables[0]
        if tables.shape[0] > 1:
            plain = plain + tables[1]
        grad = plain.to(self._like.dtype).index_select(0, self._bucket)
        if self._kept is not None:
            grad = torch.zeros_like(self._like).index_copy_(0, self._kept, grad)
        slope = tables[0].index_select(0, self._rated_bucket)
        of_rated = plain.index_select(0, self._rated_bucket).addcmul_(self._extra, slope)
        # f is continuous: its value at an edge is the integral of the slopes below.
        below = (tables[0] * self._width).cumsum(0)
        of_weight = (below[-1] - below.index_select(0, self._rated_bucket)).addcmul_(slope, self._rated_distance)
        return grad, of_rated, of_weight

    def of_samples(self, weight: Tensor) -> Tensor:
        """Σ_i weight_i · numerator(s_j − a_i), without the w_j: (A,) float64 to (N,) of the scores' type."""
        slope = self._slope_tables(weight[None])[0]
        below = (slope * self._width).cumsum(0)
        # f = value + slope · s in each bucket. The lowest bucket has neither, and no lower edge.
        value = (below[-1] - below).addcmul_(slope, self._lower.nan_to_num(0.0, 0.0))
        kept = self._like if self._kept is None else self._like.index_select(0, self._kept)
        result = torch.empty_like(kept)
        for bucket, score, place in zip(self._bucket.split(CHUNK), kept.split(CHUNK), result.split(CHUNK), strict=True):
            of_part = value.index_select(0, bucket).addcmul_(slope.index_select(0, bucket), score)
            place.copy_(of_part.nan_to_num_(0.0))  # 0 · −inf
        return result if self._kept is None else torch.zeros_like(self._like).index_copy_(0, self._kept, result)


def _worth_looking_up(scores: Tensor, edge: Tensor) -> Tensor | None:
    """Indices of the samples at or above the lowest window, or None where dropping the
    others would not pay: on a GPU (their number would have to be waited for) or when most would stay."""
    if scores.device.type != "cpu":
        return None
    above = scores >= -edge[-1:].tolist()[0]
    return above.nonzero().squeeze(1) if 2 * int(above.count_nonzero()) < scores.numel() else None
