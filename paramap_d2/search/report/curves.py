"""The picture of what proxies reached on their way, where a rule looked whether they are worth going on."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paramap_d2.search.store import FINISHED, STOPPED, Evaluation

from .drawing import PLACEHOLDERS, chart, inline_svg
from .history import LONGER, START_MARKERS, Names, legend_above

MOST_CURVES = 150
"""Drawn at most, the latest; those of losses with a name come on top."""


@dataclass(frozen=True)
class Look:
    """What the proxies had after some iterations."""

    iteration: int
    looked_at: int
    median: float
    ended: int  # of those looked at


def watched(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The proxies that were looked at on their way."""
    return [e for e in evaluations if e.curve and e.stage not in LONGER and e.status in (FINISHED, STOPPED)]


def looks(evaluations: Sequence[Evaluation]) -> list[Look]:
    """One for every number of iterations after which proxies were looked at."""
    at: dict[int, list[float]] = {}
    for e in watched(evaluations):
        for iteration, value in e.curve:
            at.setdefault(int(iteration), []).append(value)
    ended = Counter(int(e.curve[-1][0]) for e in watched(evaluations) if e.status == STOPPED)
    return [Look(i, len(found), statistics.median(found), ended[i]) for i, found in sorted(at.items())]


def curves_svg(evaluations: Sequence[Evaluation], metric: str = "AP", names: Names | None = None) -> str:
    """Fitness against iterations: one line for each proxy that was looked at on its way, to where it ended."""
    palette, names = PLACEHOLDERS, names or {}
    proxies = watched(evaluations)
    drawn = [e for e in proxies if tuple(e.genome) not in names][-MOST_CURVES:]
    with chart() as (figure, ax):
        labels = {FINISHED: "trained to the end", STOPPED: "ended early"}
        looked = {FINISHED: ("o", "-", palette.curve), STOPPED: ("v", "--", palette.muted)}
        for e in sorted(drawn, key=lambda e: e.status == STOPPED):  # the few that go less far on top
            marker, line, colour = looked[e.status]
            x, y = _way(e)
            ax.plot(x, y, line, color=colour, linewidth=0.8)
            ax.plot(x[-1], y[-1], marker, color=colour, markersize=3.5, clip_on=False, label=labels.pop(e.status, None))
        for i, (genome, name) in enumerate(names.items()):
            of = [e for e in proxies if tuple(e.genome) == genome]
            for e in of:
                x, y = _way(e)
                ax.plot(x, y, color=palette.ink, linewidth=1.8)
                look = {"color": palette.ink, "markeredgecolor": palette.page, "markersize": 10, "clip_on": False}
                label = name if e is of[0] else None
                ax.plot(x[-1], y[-1], START_MARKERS[i % len(START_MARKERS)], label=label, **look)
        highest = max((e.fitness for e in proxies), default=0)
        ax.set_ylim(0, 1.08 * highest if highest > 0 else 1)
        ax.set_xlim(left=0)
        ax.set(xlabel="iterations", ylabel=metric)
        legend_above(ax)
    return inline_svg(figure, "curves", f"{metric} of proxies on their way")


def _way(e: Evaluation) -> tuple[list[float], list[float]]:
    end = [] if e.status == STOPPED else [[e.planned or e.iterations, e.fitness]]
    way = [[0, 0.0], *e.curve, *end]
    return [x for x, _ in way], [y for _, y in way]
