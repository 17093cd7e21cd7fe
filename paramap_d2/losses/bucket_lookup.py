"""Which bucket each of many scores lies in, and how full the buckets are.

On a CPU the look-up is a table over a fine regular grid: it gives the number of edges in the cells above a score's own,
and only where the next edge turns out to lie above the score as well is the score searched for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**17
"""Samples looked up at once by each thread of a CPU, so that what is computed from them stays in its cache."""

CELLS_PER_EDGE = 16
"""Cells of the grid for every edge: a larger table, against fewer samples that are searched for."""

FEW = 2**12
"""So many samples are searched for one by one sooner than a table is made; and so are half as many as edges."""

CELLS_PER_SAMPLE = 4
"""More would cost more to make than they save."""

MANY_DOUBTS = 1000
"""So many samples whose bucket is not the first guess are compared with one more edge before they are searched for."""

MAX_CELLS = 2**22
"""float32 counts so far without rounding."""


class Filling(NamedTuple):
    bucket: Tensor  # (n,) int32: that of every score
    count: Tensor  # (B + 1,) float64: scores in every bucket
    distance: Tensor  # (B + 1,) float64: sum of their distances to its lower edge; of no meaning in the last


def fill_buckets(scores: Tensor, edge: Tensor, lower: Tensor) -> Filling:
    """Buckets from the highest scores down: bucket b holds the scores below b edges.

    Args:
        scores: (n,) float32 or float64, finite or −inf.
        edge: (B,) float64, ascending: the negatives of the edges, which are finite. A score that is equal to an edge
            lies above it.
        lower: (B + 1,) float64: the lower edge of every bucket, negative as well: those of ``edge`` and inf.
    """
    if edge.device.type != "cpu":  # no table: the search is fast there, and the samples in doubt would be waited for
        bucket = search(scores, edge)
        filled = torch.zeros(2, lower.numel(), dtype=torch.float64, device=edge.device)
        filled[0].index_add_(0, bucket, filled.new_ones(()).expand(bucket.numel()))
        filled[1].index_add_(0, bucket, lower.index_select(0, bucket).add_(scores))
        return Filling(bucket, *filled)
    if scores.numel() <= max(FEW, edge.numel() // 2):
        bucket = search(scores, edge)
        return Filling(bucket, *_filled(bucket, lower.index_select(0, bucket).add_(scores), lower.numel()))
    table = _Table(edge, lower, scores)
    step = CHUNK * torch.get_num_threads()  # a small chunk for each thread would be spent waiting for the others
    if scores.numel() <= step:
        bucket, distance = table.look_up(scores)
        return Filling(bucket, *_filled(bucket, distance, lower.numel()))
    bucket = torch.empty(scores.numel(), dtype=torch.int32)
    count, distance = torch.zeros(2, lower.numel(), dtype=torch.float64)
    for part, place in zip(scores.split(step), bucket.split(step), strict=True):
        found, far = table.look_up(part)
        place.copy_(found)
        for total, of_part in zip((count, distance), _filled(found, far, lower.numel()), strict=True):
            total += of_part
    return Filling(bucket, count, distance)


def search(scores: Tensor, edge: Tensor) -> Tensor:
    """(n,) scores to their (n,) int32 buckets, one by one."""
    return torch.searchsorted(edge, scores.double().neg(), out_int32=True)


def _filled(bucket: Tensor, distance: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    count, total = torch.bincount(bucket, minlength=buckets), torch.bincount(bucket, distance, minlength=buckets)
    return count.double(), total.double()  # integers even with weights where there is no score


class _Table:
    def __init__(self, edge: Tensor, lower: Tensor, scores: Tensor):
        self.edge, self.lower = edge, lower
        first, last = edge[:: edge.numel() - 1].tolist()
        cells = min(CELLS_PER_EDGE * edge.numel(), CELLS_PER_SAMPLE * scores.numel(), MAX_CELLS)
        self.scale = cells / (last - first)
        self.origin = first - 1 / self.scale
        self.last_cell = cells + 2
        # A cell number falls with the score (each operation rounds to nearest, so none can swap two scores), hence all
        # edges in lower cells lie above a score.
        cell = edge.to(scores.dtype).sub(self.origin).mul_(self.scale).int()
        self.above = torch.bincount(cell + 1, minlength=cells + 4).cumsum(0, dtype=torch.int32)

    def look_up(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) int32 buckets and (n,) float64 distances to their lower edges."""
        cell = scores.add(self.origin).mul_(-self.scale).clamp_(0, self.last_cell).int()
        bucket = self.above.index_select(0, cell)
        distance = self.lower.index_select(0, bucket).add_(scores)
        # No edge in a score's own cell is counted yet. Where the highest of them is not above the score, none is.
        doubt = (distance < 0).nonzero().squeeze(1)
        doubted = scores.index_select(0, doubt)
        if doubt.numel() < MANY_DOUBTS:
            found = search(doubted, self.edge)
            beyond = self.lower.index_select(0, found).add_(doubted)
        else:  # most cells have one edge, so that the next bucket is nearly always the right one
            found = bucket.index_select(0, doubt).add_(1)
            beyond = self.lower.index_select(0, found).add_(doubted)
            still = (beyond < 0).nonzero().squeeze(1)
            rest = doubted.index_select(0, still)
            right = search(rest, self.edge)
            found.index_copy_(0, still, right)
            beyond.index_copy_(0, still, self.lower.index_select(0, right).add_(rest))
        bucket.index_copy_(0, doubt, found)
        distance.index_copy_(0, doubt, beyond)
        return bucket, distance
