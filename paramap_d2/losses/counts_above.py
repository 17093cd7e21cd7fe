"""How many samples stand above each positive: what AP Loss and RS Loss are made of, and their error-driven updates."""

from __future__ import annotations

import torch
from torch import Tensor

from .functions import PiecewiseLinear
from .pairwise import lowest_window, sums_over_positives, sums_over_samples


def soft_step(delta: float) -> PiecewiseLinear:
    """H of a score difference d: 0 up to −δ, 1 from δ on, linear between; 0 < δ <= 1."""
    ends = [] if delta == 1 else [((1 - delta) / 2, 0.0), ((1 + delta) / 2, 1.0)]
    return PiecewiseLinear([(0.0, 0.0), *ends, (1.0, 1.0)])


class CountsAbove:
    """Σ_j H(s_j − s_i) for every positive i, and sums of the same H over i. Autograd records none of it.

    Args:
        scores: (N,) float32 or float64; −inf counts nowhere and lies below everything.
        positives: (P,) int64 indices into scores.
        step: H.

    Attributes:
        negatives: (P,) float64, the sum over the samples that are no positives.
        positives: (P,) float64, the sum over the other positives.
    """

    def __init__(self, scores: Tensor, positives: Tensor, step: PiecewiseLinear):
        self._scores = scores
        self._anchor = anchor = scores[positives]
        self._step = step
        of = [step.of_difference]
        (every,) = sums_over_samples(scores, anchor, of, lowest_window(anchor, [step]))
        (own,) = sums_over_samples(anchor, anchor, of)
        itself = torch.where(anchor > -torch.inf, float(step.of_difference(torch.zeros(()))), 0.0)
        self.negatives = (every - own).clamp(min=0)
        self.positives = own - itself

    def update(self, weight: Tensor) -> Tensor:
        """Σ_i weight_i · H(s_j − s_i) for every sample j: (P,) float64 to (N,) of the scores' type."""
        update = torch.zeros_like(self._scores)
        terms = {self._step.of_difference: weight}
        for part, place in zip(self._scores.split(2**20), update.split(2**20), strict=True):
            place.copy_(sums_over_positives(part, self._anchor, terms))
        return update
