"""Which bucket each of many scores lies in, and how full the buckets are.

On a CPU the look-up is a table over a fine regular grid: it gives the number of edges in the cells above a score's own.
Only where the next edge turns out to lie above the score as well is the score searched for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .small_arrays import at_once

CHUNK = 2**17
"""Samples looked up at once by a CPU, so that what is computed from them stays in its cache."""

CELLS_PER_EDGE = 16
"""Cells of the grid for every edge: a larger table, against fewer samples that are searched for."""

FEW = 2**12
"""So many samples are searched for one by one sooner than a table is made; and so are half as many as edges."""

CELLS_PER_SAMPLE = 4
"""More would cost more to make than they save."""

MAX_CELLS = 2**22
"""float32 counts so far without rounding."""

BEYOND = 2.0**26
"""The lower edge of the lowest bucket, as a number; distances to it mean nothing."""

MANY_DOUBTS = 500
"""So many samples whose bucket is not the first guess are compared with one more edge before they are searched for."""


class Buckets:
    """The axis of scores, cut at edges, once for each of L rankings. Buckets are numbered from the highest scores down:
    in ranking l, bucket l · (B + 1) + b holds the scores below b edges. A score equal to an edge lies above it.

    Args:
        lower: (L, B + 1) float64, ascending: the negatives of the buckets' lower edges, which are finite, with
            ``BEYOND`` for that of the last.
        on_cpu: whether NumPy and a table do what they do faster. Elsewhere each score is searched for, which is fast
            there, and nothing is waited for; all rankings then have equally many scores.
    """

    def __init__(self, lower: Tensor, on_cpu: bool = True):
        self.on_cpu = on_cpu
        self.rankings, self.of_each = lower.shape
        self.edge, self.lower = lower[:, :-1], lower.flatten()
        if not on_cpu:
            self.edge = self.edge.contiguous()  # as a search of several wants it

    def search(self, scores: Tensor, ranking: Tensor | None) -> Tensor:
        """(n,) scores to their (n,) int32 buckets, one by one. ``ranking``: (n,) int64 ascending, that of each score;
        None where there is one alone."""
        depth = scores.double().neg()
        if not self.on_cpu:
            if ranking is None:
                return torch.searchsorted(self.edge[0], depth, out_int32=True)
            found = torch.searchsorted(self.edge, depth.reshape(self.rankings, -1), out_int32=True)
            return found.flatten().add_(ranking, alpha=self.of_each)
        # torch's search is shared out among its threads from 200 scores on.
        depth, edges = depth.numpy(), self.edge.numpy()
        if ranking is None:
            return torch.from_numpy(_places(edges[0], depth))
        starts = np.searchsorted(ranking.numpy(), np.arange(self.rankings + 1))
        found = np.empty(depth.shape, np.int32)
        for i, (edge, start, end) in enumerate(zip(edges, starts, starts[1:], strict=False)):
            found[start:end] = _places(edge, depth[start:end]) + i * self.of_each
        return torch.from_numpy(found)

    def distance(self, scores: Tensor, bucket: Tensor) -> Tensor:
        """(n,) float64, of scores to their buckets' lower edges."""
        return self.lower.index_select(0, bucket).add_(scores)

    def fill(self, scores: Tensor, ranking: Tensor | None, powers: int) -> tuple[Tensor, list[Tensor]]:
        """Looks up all scores.

        Args:
            scores: (n,) float32 or float64, finite or −inf.
            ranking: as in :meth:`search`.
            powers: 2, or 3 for squares too.

        Returns:
            (n,) int32 buckets, and of every bucket, (L · (B + 1),): how many scores are in it, the sum of their
            distances to its lower edge in float64, and that of the squares. The last bucket's distances mean nothing.
        """
        step = CHUNK
        if not self.on_cpu or scores.numel() <= max(FEW, self.edge.numel() // 2):
            look_up, step = self._look_up_each, scores.numel()
        else:
            look_up = _Table(self, scores).look_up
        if scores.numel() <= step:
            bucket, distance = look_up(scores, ranking)
            return bucket, self._filled(bucket, distance, powers)
        bucket = torch.empty(scores.numel(), dtype=torch.int32)
        filled = None
        for start in range(0, scores.numel(), step):
            part = slice(start, start + step)
            of_part, distance = look_up(scores[part], None if ranking is None else ranking[part])
            bucket.numpy()[part] = of_part.numpy()
            more = self._filled(of_part, distance, powers)
            if filled is None:
                filled = more
            else:
                for total, x in zip(filled, more, strict=True):
                    total.numpy()[:] += x.numpy()
        return bucket, filled

    def _look_up_each(self, scores: Tensor, ranking: Tensor | None) -> tuple[Tensor, Tensor]:
        bucket = self.search(scores, ranking)
        return bucket, self.distance(scores, bucket)

    def _filled(self, bucket: Tensor, distance: Tensor, powers: int) -> list[Tensor]:
        if self.on_cpu:
            bucket, distance = bucket.numpy(), distance.numpy()
            weights = [distance] if powers == 2 else [distance, distance * distance]
            count, *sums = (np.bincount(bucket, weight, self.lower.numel()) for weight in (None, *weights))
            # Without scores the sums are integers, too.
            return [torch.from_numpy(x) for x in (count, *(x.astype(np.float64, copy=False) for x in sums))]
        weights = [distance.new_ones(()).expand_as(distance), distance, distance * distance][:powers]
        return [torch.zeros_like(self.lower).index_add_(0, bucket, w) for w in weights]


class _Table:
    """One grid for all rankings, with counts of its own for each."""

    def __init__(self, buckets: Buckets, scores: Tensor):
        self.buckets = buckets
        edge = buckets.edge.numpy()
        first, last = float(edge[:, 0].min()), float(edge[:, -1].max())
        margin = 2**-20 * max(1.0, abs(first), abs(last))  # some steps of float32, the rounding of all that follows
        self.lowest, self.highest = -last - margin, -first + margin
        self.origin = first - 2 * margin
        cells = min(CELLS_PER_EDGE * edge.shape[1], CELLS_PER_SAMPLE * scores.numel(), MAX_CELLS // buckets.rankings)
        self.scale = cells / (last + 2 * margin - self.origin)
        self.cells = cells + 3
        # A cell number falls with the score (each operation rounds to nearest, so none can swap two scores), hence all
        # edges in lower cells lie above a score.
        near = edge if scores.dtype == torch.float64 else edge.astype(np.float32)
        cell = ((near - self.origin) * self.scale).astype(np.int64)
        of_ranking = np.arange(buckets.rankings)[:, None]
        filled = np.bincount((cell + of_ranking * self.cells).ravel() + 1, minlength=buckets.rankings * self.cells)
        self.above = torch.from_numpy(filled.cumsum(dtype=np.int32))
        if buckets.rankings > 1:
            self.above.view(buckets.rankings, -1).add_(torch.from_numpy(of_ranking))

    def look_up(self, scores: Tensor, ranking: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n,) int32 buckets and (n,) float64 distances to their lower edges."""
        bucket = torch.empty(scores.shape, dtype=torch.int32)
        distance = torch.empty(scores.shape, dtype=torch.float64)
        step = at_once(scores)
        for start in range(0, scores.numel(), step):
            part = slice(start, start + step)
            inside = scores[part].clamp(self.lowest, self.highest)
            cell = inside.add(self.origin).mul_(-self.scale).int()
            if ranking is not None:
                cell.add_(ranking[part], alpha=self.cells)
            torch.index_select(self.above, 0, cell, out=bucket[part])
            torch.index_select(self.buckets.lower, 0, bucket[part], out=distance[part]).add_(inside)
        # No edge in a score's own cell is counted yet. Where the highest of them is not above the score, none is.
        doubt = indices(distance.numpy() < 0)
        if doubt.numel():
            doubted = scores.index_select(0, doubt).clamp_(self.lowest, self.highest)
            of_doubt = None if ranking is None else ranking.index_select(0, doubt)
            if doubt.numel() < MANY_DOUBTS:
                found = self.buckets.search(doubted, of_doubt)
                beyond = self.buckets.distance(doubted, found)
            else:  # most cells have one edge, so that the next bucket is nearly always the right one
                found = bucket.index_select(0, doubt).add_(1)
                beyond = self.buckets.distance(doubted, found)
                still = indices(beyond.numpy() < 0)
                rest = doubted.index_select(0, still)
                right = self.buckets.search(rest, None if ranking is None else of_doubt.index_select(0, still))
                found.index_copy_(0, still, right)
                beyond.index_copy_(0, still, self.buckets.distance(rest, right))
            bucket.numpy()[doubt.numpy()] = found.numpy()
            distance.numpy()[doubt.numpy()] = beyond.numpy()
        return bucket, distance


def _places(edge: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """int32: how many of the ascending edges are below each depth. In their order they are searched for, sorting and
    all, in less than half the time: every search ends beside the one before."""
    order = depth.argsort()
    places = np.empty(depth.shape, np.int32)
    places[order] = edge.searchsorted(depth[order])
    return places


def indices(mask: np.ndarray) -> Tensor:
    """int64, of what is true. NumPy compares and searches in a fifth of torch's time."""
    return torch.from_numpy(np.flatnonzero(mask))
