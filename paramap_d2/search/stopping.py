"""When a proxy ends early as hopeless: rules on its AP on the way, beside those of earlier generations."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from .store import FINISHED, SEARCH, STOPPED, Evaluation

RULES = {
    "none": "every proxy is trained to its end",
    "median": "a proxy ends where its AP is below the median of the last ones there",
    "halving": "a proxy goes on where its AP is among the best quarter of the last ones there (successive halving)",
}

CHECKPOINTS = (0.25, 0.5)
"""Shares of a training after which its AP is looked at."""

REDUCTION = 4
"""Of the proxies at a checkpoint, successive halving lets one in so many go on: the factor of Li et al. 2020, "A
system for massively parallel hyperparameter tuning"."""

FEWEST = 4
"""Earlier proxies that must have come to a checkpoint before one is ended there."""

LATEST = 16
"""Earlier proxies at a checkpoint that one is compared with, those asked for last: a population gets better, and ever
more of it would pass among all that came before."""

Checkpoint = tuple[float, float | None]
"""A share of the training, and the AP below which it ends there; None: the AP is only noted."""


def checkpoints(rule: str, earlier: Iterable[Evaluation]) -> list[Checkpoint]:
    """Where the proxies of a generation are looked at, and what they have to reach there.

    The thresholds come from whole earlier generations alone, so that they do not hang on the order in which the
    proxies of this one end.

    Args:
        rule: one of :data:`RULES`.
        earlier: the evaluations of the generations before; those that were ended early count at the checkpoints that
            they came to. In the order in which they were asked for.
    """
    if rule == "none":
        return []
    curves = [e.curve for e in earlier if e.stage == SEARCH and e.status in (FINISHED, STOPPED)]
    found: list[Checkpoint] = []
    for number, share in enumerate(CHECKPOINTS):
        there = sorted([curve[number][1] for curve in curves if len(curve) > number][-LATEST:])
        threshold = None
        if len(there) >= FEWEST:
            threshold = statistics.median(there) if rule == "median" else there[-(len(there) // REDUCTION)]
        found.append((share, threshold))
    return found
