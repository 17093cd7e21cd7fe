"""The two sums of the loss over all pairs, in O((N + P) log P), for piecewise-linear functions.

For a positive i, Σ_j f(s_j − s_i) falls into one part for each linear piece of f. All pieces of all positives
together cut the axis of scores into *buckets*; a bucket needs only the number of samples in it and the sum of their
distances to its left edge, and every piece of every positive is a run of whole buckets, so differences of prefix sums
over the buckets give every sum. No sample is ever sorted: N enters by looking up each sample's bucket and by two
scatters. On a CPU the look-up is a table over a fine regular grid, and only the few samples that share a grid cell
with an edge are searched for.

Backward, Σ_i g_i f'(s_j − s_i) is constant in each bucket: the changes of slope are scattered to the edges where they
happen, one prefix sum makes them slopes, and every sample reads that of its bucket.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .functions import PiecewiseLinear

SCORE_LIMIT = 2.0**24
"""Above this, s + 1 is too coarse in float64 for exact edges of the buckets; the pairwise form has no such limit."""

CHUNK = 2**16
"""Samples looked up at once on a CPU, so that what is computed from them stays in its cache."""

CELLS_PER_EDGE = 16
"""Cells of the grid for every edge: a larger table, against fewer samples that share a cell with an edge."""

TABLE_PAYS = 2
"""Samples for every edge from which on a table is made sooner than the samples are searched for one by one."""

MAX_CELLS = 2**22
"""float32 counts so far without rounding."""


def ranking_sums(
    scores: Tensor,
    positives: Tensor,
    rated: Tensor,
    rated_weight: Tensor,
    base_weight: float,
    numerator: PiecewiseLinear,
    denominator: PiecewiseLinear,
) -> tuple[Tensor, Tensor]:
    """Σ_j w_j · numerator(s_j − s_i) and Σ_j denominator(s_j − s_i) for every positive i.

    Args:
        scores: (N,) float32 or float64, differentiable. A score of −inf adds 0 to every sum. No score may exceed
            ``SCORE_LIMIT``, and those of positives must not lie below its negative.
        positives: (P,) int64 indices into scores.
        rated: (E,) int64 indices of the samples whose weight differs from ``base_weight``: the positives, in their
            order, then others, each at most once.
        rated_weight: (E,) float64, their weights w_j, differentiable.
        base_weight: w_j of all other samples.
        numerator, denominator: piecewise-linear functions of the difference.

    Returns:
        Two (P,) float64 tensors.
    """
    return _RankingSums.apply(scores, positives, rated, rated_weight, base_weight, numerator, denominator)


class _Shape(NamedTuple):
    """Numerator (row 0) and denominator (row 1) over the union of their M breakpoints, all float64."""

    at: Tensor  # (M,) the breakpoints as score differences in [-1, 1], ascending
    value: Tensor  # (2, M)
    slope: Tensor  # (2, M) per unit of difference, to the right of each breakpoint; 0 after the last
    change: Tensor  # (2, M) of slope, at each breakpoint


@lru_cache(maxsize=64)  # a step would else copy these to its device anew
def _shape(numerator: PiecewiseLinear, denominator: PiecewiseLinear, device: torch.device) -> _Shape:
    # In the functions' own argument: 2x − 1 and back may round to the other side of a breakpoint.
    x = torch.tensor(sorted({x for f in (numerator, denominator) for x in f.x}), dtype=torch.float64)
    value = torch.stack([f.value(x) for f in (numerator, denominator)])
    slope = torch.stack([f.slope(x) / 2 for f in (numerator, denominator)])
    slope[:, -1] = 0
    change = slope.diff(dim=1, prepend=torch.zeros(2, 1, dtype=torch.float64))
    return _Shape(*(tensor.to(device) for tensor in (2 * x - 1, value, slope, change)))


class _Edges(NamedTuple):
    """Edges of the buckets: bucket b > 0 holds the scores in [edge[b-1], edge[b]); bucket 0 all below."""

    left: Tensor  # (B + 1,) float64: left edge of every bucket; bucket 0 has that of bucket 1
    place: Tensor  # (M, P) int64: the bucket that begins at each breakpoint of each positive, each bucket once
    offset: Tensor  # (M, P) float64: compacted coordinate of each breakpoint
    compact: Tensor  # (B + 1,) float64: compacted coordinate of the left edge of every bucket
    outside: Tensor  # (B + 1,) bool: whether the bucket lies in no positive's window


def _edges(anchor: Tensor, at: Tensor) -> _Edges:
    # Laid out as M ascending runs, which a merging sort joins in a third of the time.
    anchor, of_anchor = torch.sort(anchor)
    edge, order = torch.sort((anchor + at[:, None]).flatten())
    place = torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1, device=order.device))
    place = torch.empty_like(place).view(len(at), -1).index_copy_(1, of_anchor, place.view(len(at), -1))
    # Far-apart windows would make the prefix sums large and their differences inexact, so the stretches that lie in
    # no window (they are wider than 2, or hold nothing of interest) are taken out of the coordinate.
    gap = edge.diff()
    excess = torch.cat([gap.new_zeros(1), (gap - 2).clamp_(min=0).cumsum(0)])
    centre = len(edge) // 2
    compact = (edge - edge[centre]).sub_(excess - excess[centre])
    opened = torch.zeros(len(edge) + 1, dtype=torch.int64, device=anchor.device)
    opened.index_fill_(0, place[0], 1).index_fill_(0, place[-1], -1)
    compact = torch.cat([compact[:1], compact])
    return _Edges(
        left=torch.cat([edge[:1], edge]),
        place=place,
        offset=compact.take(place),
        compact=compact,
        outside=opened.cumsum(0) == 0,
    )


class _Buckets:
    """Looks up buckets: the number of edges at or below a score, exactly.

    Many float32 scores are compared with the float64 edges rounded up to the next float32, which no float32 score can
    tell from the edge itself; few, with the edges.
    """

    def __init__(self, edge: Tensor, dtype: torch.dtype, samples: int):
        on_cpu, few = edge.device.type == "cpu", samples <= TABLE_PAYS * len(edge)
        if dtype == torch.float32 and not (on_cpu and few):
            near = edge.float()
            edge = torch.where(near.double() < edge, torch.nextafter(near, near.new_full((), torch.inf)), near)
        self.edge = edge
        self.table = None
        # Not on a GPU: the search is fast there, and the samples in doubt would be waited for.
        if on_cpu and not few:
            self.low = float(edge[0])
            self.cells = min(CELLS_PER_EDGE * len(edge), MAX_CELLS)
            self.scale = self.cells / float(edge[-1] - edge[0])
            held = torch.bincount(self._cell(edge), minlength=self.cells + 3)
            self.table = held.cumsum(0, dtype=torch.int32).masked_fill_(held > 0, -1)

    def _cell(self, scores: Tensor) -> Tensor:
        """Rises with the score (each operation rounds to nearest, so none can swap two scores), hence all edges in
        lower cells lie below a score and all in higher ones above. The first and last cell hold no edge."""
        return scores.sub(self.low).mul_(self.scale).add_(1).clamp_(0, self.cells + 2).int()

    def of(self, scores: Tensor) -> Tensor:
        """(n,) finite or −inf to (n,) int32."""
        if self.table is None:
            return torch.searchsorted(self.edge, scores.to(self.edge.dtype), right=True, out_int32=True)
        bucket = self.table.index_select(0, self._cell(scores))
        doubt = (bucket < 0).nonzero().squeeze(1)
        found = torch.searchsorted(self.edge, scores.index_select(0, doubt), right=True, out_int32=True)
        return bucket.index_copy_(0, doubt, found)


def _run_sums(edges: _Edges, count: Tensor, distance: Tensor, shape: _Shape) -> tuple[Tensor, Tensor]:
    """(2, P) Σ_j f(s_j − s_i) and (2, P) Σ_j f'(s_j − s_i), from the (2, B + 1) weighted count of samples in every
    bucket and weighted sum of their distances to its left edge."""
    distance = distance.masked_fill(edges.outside, 0.0)  # f is constant there, and distances may be huge
    # Rows 0 and 1: samples below each breakpoint; 2 and 3: their summed coordinates.
    upto = torch.cat([count, torch.addcmul(distance, count, edges.compact)]).cumsum(1)
    below = upto.gather(1, (edges.place - 1).flatten().expand(4, -1)).unflatten(1, edges.place.shape)
    number, moment = below.diff(dim=1).split(2)
    moment = moment - edges.offset[:-1] * number  # Σ (s_j − breakpoint) within each piece
    value, slope = shape.value[:, None, :-1], shape.slope[:, None, :-1]
    above = upto[:2, -1:] - below[:2, -1]
    return (value @ number + slope @ moment).squeeze(1) + above * shape.value[:, -1:], (slope @ number).squeeze(1)


class _RankingSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, positives, rated, rated_weight, base_weight, numerator, denominator):
        anchor = scores.take(positives).double()
        shape = _shape(numerator, denominator, scores.device)
        edges = _edges(anchor, shape.at)

        kept = _worth_searching(scores, edges.left[0])
        searched = scores if kept is None else scores.index_select(0, kept)
        buckets = _Buckets(edges.left[1:], scores.dtype, len(searched))
        bucket = torch.empty(len(searched), dtype=torch.int32, device=scores.device)
        count, far = torch.zeros(2, len(edges.left), dtype=torch.float64, device=scores.device)
        one = torch.ones((), dtype=torch.float64, device=scores.device)
        step = CHUNK if scores.device.type == "cpu" else max(1, len(searched))
        for part, place in zip(searched.split(step), bucket.split(step), strict=True):
            place.copy_(buckets.of(part))
            count.index_add_(0, place, one.expand(len(place)))
            far.index_add_(0, place, part - edges.left.index_select(0, place))

        rated_scores = scores.take(rated)
        rated_bucket = buckets.of(rated_scores).long()
        rated_distance = rated_scores - edges.left.take(rated_bucket)
        rated_distance.masked_fill_(edges.outside.take(rated_bucket), 0.0)
        extra = rated_weight.double() - base_weight
        # Row 0 with the weights, for the numerator; row 1 without, for the denominator.
        count = torch.stack([(base_weight * count).scatter_add_(0, rated_bucket, extra), count])
        far = torch.stack([(base_weight * far).scatter_add_(0, rated_bucket, extra * rated_distance), far])
        count[:, 0] = 0  # Bucket 0 is below all windows and takes part in nothing.
        sums, slopes = _run_sums(edges, count, far, shape)
        ctx.save_for_backward(rated, rated_weight, kept, bucket, rated_bucket, rated_distance, slopes)
        ctx.buckets = edges, shape, base_weight
        ctx.like = scores.shape, scores.dtype
        ctx.set_materialize_grads(False)
        return sums[0], sums[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_numerator, grad_denominator):
        rated, rated_weight, kept, bucket, rated_bucket, rated_distance, slopes = ctx.saved_tensors
        edges, shape, base_weight = ctx.buckets
        size, dtype = ctx.like

        # (2, B + 1) Σ_i grad_i · f'(s − s_i) for s in every bucket; (1, B + 1) where the denominator is held constant.
        if grad_numerator is None:
            grad_numerator = torch.zeros_like(slopes[0])
        grads = torch.stack([grad for grad in (grad_numerator, grad_denominator) if grad is not None])
        rows = len(grads)
        changes = (shape.change[:rows, :, None] * grads[:, None]).flatten(1)
        slope = changes.new_zeros(rows, len(edges.left)).index_copy_(1, edges.place.flatten(), changes)
        slope = slope.cumsum(1).masked_fill_(edges.outside, 0.0)
        plain = base_weight * slope[0]
        if rows > 1:
            plain += slope[1]
        grad = plain.to(dtype).index_select(0, bucket)
        if kept is not None:
            grad = torch.zeros(size, dtype=dtype, device=plain.device).scatter_(0, kept, grad)
        # A rated sample's own weight, and the other role of a positive's score: every difference it is subtracted in.
        # The parts of a positive's gradient cancel, so they are added before they are rounded to the scores' type.
        slope_of_rated = slope[0].take(rated_bucket)
        of_rated = plain.take(rated_bucket) + (rated_weight.double() - base_weight) * slope_of_rated
        of_rated[: len(grad_numerator)] -= (grads * slopes[:rows]).sum(0)
        grad.index_copy_(0, rated, of_rated.to(dtype))

        # Σ_i g_i f(s_j − s_i) of the rated samples: f is continuous, so its value at an edge is the integral of the
        # slopes up to there.
        width = edges.compact.diff(append=edges.compact[-1:])
        width[0] = 0
        value = (slope[0] * width).cumsum(0) - slope[0] * width
        grad_weight = value.take(rated_bucket) + slope_of_rated * rated_distance
        return grad, None, None, grad_weight.to(rated_weight.dtype), None, None, None


def _worth_searching(scores: Tensor, lowest: Tensor) -> Tensor | None:
    """Indices of the samples at or above the lowest window, or None where dropping the others would not pay: on a
    GPU (the shape would have to be waited for) or when most would stay."""
    if scores.device.type != "cpu":
        return None
    above = scores >= lowest
    return above.nonzero().squeeze(1) if 2 * int(above.count_nonzero()) < len(scores) else None
