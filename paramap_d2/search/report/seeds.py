"""The picture of what followed a search: the fitness of every loss from every seed, and its mean."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from paramap_d2.search.store import FINAL, FINISHED, Evaluation

from .drawing import PLACEHOLDERS, chart, inline_svg
from .history import LONGER


@dataclass(frozen=True)
class OfLoss:
    """What followed the search of one loss, of one stage and length."""

    loss: str  # its name
    stage: str  # one of LAST
    iterations: int
    evaluations: list[Evaluation]  # that say something about it

    @property
    def mean(self) -> float | None:
        return statistics.fmean(e.fitness for e in self.evaluations) if self.evaluations else None

    @property
    def label(self) -> str:
        return f"{self.loss}, {LONGER[self.stage][1]}s of {self.iterations} iterations"


def by_loss(evaluations: Sequence[Evaluation], name: dict[tuple[float, ...], str]) -> list[OfLoss]:
    """Of every loss that was trained after the search, confirming ones first, from best to worst.

    Args:
        name: of every loss that has some, by genome.
    """
    groups: dict[tuple, list[Evaluation]] = {}
    for e in evaluations:
        if e.stage in LONGER and e.counts:
            groups.setdefault((e.stage, e.planned, tuple(e.genome)), []).append(e)
    found = [OfLoss(name[genome], stage, planned, of) for (stage, planned, genome), of in groups.items()]
    return sorted(found, key=lambda group: (list(LONGER).index(group.stage) * -1, -group.iterations, -group.mean))


def seeds_svg(groups: Sequence[OfLoss], metric: str = "AP") -> str:
    """A row for each of :func:`by_loss`: marks for the seeds, a bar for their mean."""
    palette = PLACEHOLDERS
    with chart(0.6 + 0.5 * len(groups)) as (figure, ax):
        for row, group in enumerate(groups):
            marker = LONGER[group.stage][0]
            face = palette.curve if group.stage == FINAL else palette.page  # as in the history
            values = [e.fitness for e in group.evaluations if e.status == FINISHED]
            failed = len(group.evaluations) - len(values)
            look = {"markerfacecolor": face, "markeredgecolor": palette.curve, "markeredgewidth": 1.3, "markersize": 6}
            ax.plot(values, [row] * len(values), marker, clip_on=False, **look)
            if failed:
                cross = {"color": palette.failure, "markersize": 6, "markeredgewidth": 1.4, "clip_on": False}
                ax.plot([0] * failed, [row] * failed, "x", **cross)
            ax.plot([group.mean] * 2, [row - 0.2, row + 0.2], color=palette.best, linewidth=2)
            ax.annotate(
                f"{group.label}: {group.mean:.2f}", (0, row - 0.25), xycoords=("axes fraction", "data"), va="bottom"
            )
        ax.set_ylim(len(groups) - 0.65, -0.75)
        ax.set(yticks=[], xlabel=metric)
        ax.spines["left"].set_visible(False)
        ax.margins(x=0.06)
    return inline_svg(figure, "seeds", f"{metric} of final and confirming trainings from every seed")
