"""The two sums of the loss over all pairs, in O((N + A) log A), for functions that are linear or quadratic in pieces.

A positive's score is an *anchor* a; a sample counts for it by f(s − a). The breakpoints of all anchors' functions are
edges that cut the axis of scores into *buckets*, and f(s − a) = Σ_m c_m · max(0, s − e_m) + h_m · max(0, s − e_m)² over
its own edges e_m, with c_m the jump of the slope there and h_m half that of the second derivative. So the sums over j
need Σ_j w_j max(0, s_j − e) and Σ_j w_j max(0, s_j − e)² at its edges alone, and those are prefix sums over buckets,
from the highest scores down, of their counts and of their samples' distances, and squared distances, to the lower edge.
N enters by looking up each sample's bucket and by counting: the samples are not sorted, but where they are few.

Backward, Σ_i g_i f'(s_j − a_i) is linear in s_j in each bucket (constant, where all pieces are linear): prefix sums
over the jumps at the edges, and every sample reads those of its bucket.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .bucket_lookup import BEYOND, CHUNK, Buckets, indices
from .functions import RankingFunction
from .small_arrays import Array, arrays_on, at_once

SCORE_LIMIT = 2.0**24
"""Above this, s + 1 is too coarse in float64 for exact edges of the buckets; the pairwise form has no such limit."""

EMPTY_GAP = 2.5
"""Between edges further apart than this lies no anchor's window, which is 2 wide."""


class _Breakpoints(NamedTuple):
    """Numerator (row 0) and denominator (row 1) over the union of their M breakpoints, all float64."""

    at: Array  # (M, 1) the negatives of the breakpoints as score differences in [-1, 1]
    slope: Array  # (2, 1, M, 1) jump of the slope at each breakpoint, per unit of difference
    bend: Array | None  # (2, 1, M, 1) half the jump of the second derivative; None where there is none


@lru_cache(maxsize=64)  # a step would else copy these to its device anew
def _breakpoints(numerator: RankingFunction, denominator: RankingFunction, device: torch.device) -> _Breakpoints:
    functions = numerator, denominator
    # In the functions' own argument: 2x − 1 and back may round to the other side of a breakpoint.
    x = torch.tensor(sorted({x for f in functions for x in f.corners}), dtype=torch.float64, device="cpu")
    slope = torch.stack([f.slope(x) / 2 for f in functions])  # to the right of each
    curve = torch.stack([f.curvature(x) / 4 for f in functions])
    slope[:, -1] = curve[:, -1] = 0
    before = torch.zeros_like(slope)
    before[:, 1:] = slope[:, :-1] + curve[:, :-1] * 2 * x.diff()
    bend = curve.diff(dim=1, prepend=curve.new_zeros(2, 1)) / 2
    xp = arrays_on(device)
    of_edges = [xp.array(row[:, None, :, None].contiguous().to(device)) for row in (slope - before, bend)]
    return _Breakpoints(xp.array((1 - 2 * x)[:, None].to(device)), of_edges[0], of_edges[1] if bend.any() else None)


class BucketSums:
    """For every anchor a_i: Σ_j w_j · numerator(s_j − a_i) and Σ_j denominator(s_j − a_i), and what their gradients
    are made of. Autograd records none of it.

    Several rankings of equal sizes, each for itself, can be had in one: L of n samples and A anchors each.

    Args:
        scores: (N,) or (L, n) float32 or float64. A score of −inf adds 0 to every sum. None may exceed ``SCORE_LIMIT``.
        anchor: (A,) or (L, A) float64, none below −``SCORE_LIMIT``; A > 0.
        numerator, denominator: functions of the difference that have ``corners``.
        rated: (E,) int64 indices, into the flattened scores, of the samples whose weight w_j differs from
            ``base_weight``, each once; those of a ranking before those of the next.
        extra: (E,) float64: how much their weights exceed ``base_weight``.
        base_weight: w_j of all other samples.

    Attributes:
        sums: (2, L · A) float64: the two sums.
        slopes: (2, L · A) float64: the same of the functions' derivatives.
    """

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
        xp = self._xp = arrays_on(scores.device)
        at, self._slope, self._bend = _breakpoints(numerator, denominator, scores.device)
        anchors, powers = anchor.shape[-1], 2 if self._bend is None else 3
        rankings = self._rankings = anchor.numel() // anchors
        depth = -xp.array(anchor).reshape(rankings, anchors)
        # Sorted anchors give ascending runs of edges, which a merging sort joins fast.
        self._of_anchor = self._flat(xp.order(depth), anchors)
        depth = xp.pick(depth.reshape(-1), self._of_anchor).reshape(rankings, 1, anchors)
        edge = (at + depth).reshape(rankings, -1)  # the negatives of the edges: the highest first
        self._of_edge = self._flat(xp.order(edge), edge.shape[1])
        lower = xp.append(xp.pick(edge.reshape(-1), self._of_edge).reshape(rankings, -1), BEYOND)
        edge = lower[:, :-1]
        # Distances where no window lies may be huge, and all functions are constant there.
        gap = edge[:, 1:] - edge[:, :-1]
        self._inner = gap <= EMPTY_GAP
        self._gap = gap * self._inner

        self._scores = scores = scores.reshape(-1)
        self._buckets = Buckets(xp.tensor(lower), xp.on_cpu)
        self._kept = _worth_looking_up(scores, edge) if xp.on_cpu else None
        looked_up = scores if self._kept is None else scores.index_select(0, self._kept)
        self._bucket, *filled = self._buckets.fill(looked_up, self._ranking(self._kept), powers)
        rated_scores = scores.index_select(0, rated)
        rated_bucket = self._buckets.search(rated_scores, self._ranking(rated))
        self._rated_bucket = xp.array(rated_bucket)
        self._rated_distance = xp.array(self._buckets.distance(rated_scores, rated_bucket).clamp_(0, EMPTY_GAP))
        self._base_weight, self._extra = base_weight, xp.array(extra)

        # Of the samples at or above each edge: their number, the sum of their distances to it, that of the squares.
        above = xp.zeros(powers, 2, rankings, edge.shape[1])
        of_rated = self._extra
        for power, (row, plain) in enumerate(zip(above, *filled, strict=True)):
            plain = xp.array(plain)
            row[1] = plain.reshape(rankings, -1)[:, :-1]
            weighted = plain if base_weight == 1 else base_weight * plain
            row[0] = xp.add_at(weighted, self._rated_bucket, of_rated).reshape(rankings, -1)[:, :-1]
            of_rated = of_rated * self._rated_distance
            if power:
                row[..., 0] = 0
                row = row[..., 1:]
                row *= self._inner
                if power == 1:
                    row += above[0, ..., :-1] * self._gap
                else:
                    row += (above[0, ..., :-1] * self._gap + 2 * above[1, ..., :-1]) * self._gap
            xp.running_sum(row)
        above = xp.pick(above.reshape(2 * powers, -1), xp.inverse(self._of_edge))
        above = above.reshape(powers, 2, rankings, -1, anchors)
        result = (self._slope * above[:2]).sum(3)
        if self._bend is not None:
            result[1] += (self._bend * above[2]).sum(2)
            result[0] += (2 * self._bend * above[1]).sum(2)
        result = xp.tensor(xp.pick(result.reshape(4, -1), xp.inverse(self._of_anchor)))
        self.slopes, self.sums = result[:2], result[2:]

    def _flat(self, index: Array, size: int) -> Array:
        """Indices within each ranking's run of such a size to indices into all runs."""
        return (index if self._rankings == 1 else index + self._xp.starts(self._rankings, size)).reshape(-1)

    def _ranking(self, samples: Tensor | None) -> Tensor | None:
        """That of each sample, of all where none are named; None where there is one alone."""
        if self._rankings == 1:
            return None
        if samples is None:
            samples = torch.arange(self._scores.numel(), device=self._scores.device)
        return samples.div(self._scores.numel() // self._rankings, rounding_mode="floor")

    def gradient(self, grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The samples' part of the gradient; the anchors' is −Σ grads · slopes.

        Args:
            grads: (2, L · A) float64, of the sums; (1, L · A) where the denominator is held constant.

        Returns:
            (N,) of the scores, in their type, of no meaning at the rated samples; (E,) float64 of the rated samples'
            scores; (E,) float64 of their weights.
        """
        base = self._base_weight
        slope, bend = self._in_buckets(grads)
        plain_slope, plain_bend = (_weighted(x, base) for x in (slope, bend))
        distance = self._rated_distance
        of_rated, of_slope = self._at_rated(plain_slope), self._at_rated(slope[0])
        of_weight = self._at_rated(self._values(slope, bend)) + of_slope * distance
        if bend is not None:
            of_bend = self._at_rated(bend[0]) * distance
            of_weight += of_bend * distance / 2
            of_slope += of_bend
            of_rated += self._at_rated(plain_bend) * distance
        of_rated += self._extra * of_slope
        return self._at_samples(plain_slope, plain_bend), self._xp.tensor(of_rated), self._xp.tensor(of_weight)

    def of_samples(self, weight: Tensor) -> Tensor:
        """Σ_i weight_i · numerator(s_j − a_i), without the w_j: (L · A,) float64 to (N,) of the scores' type."""
        slope, bend = self._in_buckets(weight[None])
        return self._at_samples(self._values(slope, bend), slope, None if bend is None else bend / 2)

    def _in_buckets(self, grads: Tensor) -> tuple[Array, Array | None]:
        """(R, L · A) g to (R, L, B + 1): Σ_i g_i f'(s − a_i) at the lower edge of every bucket, and how much more it is
        one further up; None where it is the same."""
        xp, rows = self._xp, len(grads)
        minus_grads = -xp.pick(xp.array(grads), self._of_anchor).reshape(rows, self._rankings, 1, -1)

        def below(jump: Array) -> Array:
            """What is below is what is above with its sign turned: all jumps of a function cancel in the end."""
            in_order = xp.pick((jump[:rows] * minus_grads).reshape(rows, -1), self._of_edge)
            return in_order.reshape(rows, self._rankings, -1)[..., :-1]

        def table(inside: Array) -> Array:
            whole = xp.zeros(rows, self._rankings, self._buckets.of_each)
            whole[..., 1:-1] = inside * self._inner
            return whole

        jumps = below(self._slope)
        if self._bend is None:
            return table(xp.running_sum(jumps)), None
        bend = xp.running_sum(2 * below(self._bend))
        return table(xp.running_sum(jumps - bend * self._gap)), table(bend)

    def _values(self, slope: Array, bend: Array | None) -> Array:
        """(L, B + 1): Σ_i g_i f(s − a_i) at the lower edges, of the first row: f is continuous, so that it is the
        integral of the slopes below."""
        area = slope[0, :, 1:-1] * self._gap
        if bend is not None:
            area += bend[0, :, 1:-1] * (self._gap**2 / 2)
        area = self._xp.running_sum(area)
        value = self._xp.zeros(len(area), self._buckets.of_each)
        value[:, :-1] = area[:, -1:]
        value[:, 1:-1] -= area
        return value

    def _at_rated(self, table: Array) -> Array:
        return self._xp.pick(table.reshape(-1), self._rated_bucket)

    def _at_samples(self, *tables: Array | None) -> Tensor:
        """Σ_k table_k · (distance to the lower edge)^k of every sample, 0 below the lowest window."""
        kept, like = self._kept, self._scores
        tables = [table for table in tables if table is not None]
        step = min(CHUNK, at_once(self._bucket)) if self._xp.on_cpu else max(1, self._bucket.numel())
        if len(tables) == 1:
            table = self._xp.cast(tables[0], like)
            if step >= self._bucket.numel():
                result = table.index_select(0, self._bucket)
            else:
                result = torch.empty(self._bucket.shape, dtype=like.dtype)
                for bucket, place in zip(self._bucket.split(step), result.split(step), strict=True):
                    torch.index_select(table, 0, bucket, out=place)
        else:
            rows = [self._xp.tensor(table).flatten() for table in tables]
            result = torch.empty(self._bucket.shape, dtype=like.dtype, device=like.device)
            for start in range(0, result.numel(), step):
                part = slice(start, start + step)
                bucket = self._bucket[part]
                scores = like[part] if kept is None else like.index_select(0, kept[part])
                distance = self._buckets.distance(scores, bucket).clamp_(0, EMPTY_GAP)
                total = rows[-1].index_select(0, bucket)
                for row in rows[-2::-1]:
                    total = row.index_select(0, bucket).addcmul_(total, distance)
                result[part] = total
        if kept is None:
            return result
        whole = torch.empty_like(like)
        values = whole.numpy()  # by one thread, as all else
        values.fill(0)
        values[kept.numpy()] = result.numpy()
        return whole


def _weighted(rows: Array | None, weight: float) -> Array | None:
    """weight · numerator + denominator, if there is one."""
    if rows is None:
        return None
    numerator = rows[0] if weight == 1 else weight * rows[0]
    return numerator + rows[1] if len(rows) > 1 else numerator


def _worth_looking_up(scores: Tensor, edge: Array) -> Tensor | None:
    """Indices of the samples at or above the lowest window, or None where most would stay. (On a GPU their number would
    have to be waited for.)"""
    worth = scores.numpy() >= -float(edge[:, -1].max())
    return indices(worth) if 2 * np.count_nonzero(worth) < len(worth) else None
