"""Whether a generation tells losses apart at all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .candidates import Candidate, noise
from .store import FINISHED, Evaluation

LEAST = 1.0
"""Percent that the best proxy of a generation reaches at least where they tell losses apart."""


def blindness(current: Sequence[Evaluation], candidates: Sequence[Candidate], metric: str) -> str:
    """What is wrong with the proxies of a generation, as a line for the user; empty if nothing is.

    Args:
        current: a generation, without repeats.
        candidates: all so far: those with several seeds tell the noise.
    """
    fitnesses = [e.fitness for e in current if e.status == FINISHED]
    if len(fitnesses) < 2:
        return ""
    longer = "train them longer (MAX_ITER), or from weights that know more"
    if max(fitnesses) < LEAST:
        return f"no proxy reached {metric} {LEAST:g}: so short, they hardly tell one loss from another; {longer}"
    spread, over_seeds = statistics.stdev(fitnesses), noise(candidates)
    if over_seeds and spread <= over_seeds:
        return (
            f"{metric} differs by {spread:.2f} from loss to loss and by {over_seeds:.2f} from seed to seed of one "
            f"(standard deviations): the search cannot tell them apart; {longer}, or repeat more (--reevaluate)"
        )
    return ""
