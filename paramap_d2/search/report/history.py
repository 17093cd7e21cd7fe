"""Pictures of what a search trained, one mark each: as files on white paper, and as SVG that takes a page's colours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paramap_d2.search.candidates import leading_means, ranked_candidates
from paramap_d2.search.store import (
    CONFIRM,
    FAILURES,
    FINAL,
    FINISHED,
    INTERRUPTED,
    RUN_OFF,
    SEARCH,
    STOPPED,
    Evaluation,
)

from .drawing import LIGHT, PLACEHOLDERS, Palette, chart, inline_svg, save_figure

Names = Mapping[tuple[float, ...], str]
"""Of the losses that a search began with: see :func:`paramap_d2.search.names.loss_names`."""

START_MARKERS = "*P^<>h"
"""Of the losses with a name, in their order: told apart by more than a colour."""

LONGER = {
    FINAL: ("s", "final training"),
    RUN_OFF: ("o", "run-off training"),
    CONFIRM: ("D", "confirming training"),
}
"""Markers and names of what is no proxy."""


@dataclass(frozen=True)
class _Points:
    """Evaluations that say something about their genome, ready to be drawn against x."""

    evaluations: list[Evaluation]
    x: list[float]
    names: Names = field(default_factory=dict)

    def where(self, *statuses: str, longer: bool = False) -> tuple[list[float], list[Evaluation]]:
        """Proxies, or what followed them, of these statuses."""
        return self._chosen(lambda e: e.status in statuses and (e.stage in LONGER) == longer)

    def of(self, genome: tuple[float, ...]) -> tuple[list[float], list[Evaluation]]:
        return self._chosen(lambda e: tuple(e.genome) == genome and e.stage not in LONGER and e.status == FINISHED)

    def best_so_far(self) -> tuple[list[float], list[float]]:
        x, proxies = self._chosen(lambda e: e.stage not in LONGER)
        led = [(at, best) for at, best in zip(x, leading_means(proxies), strict=True) if best is not None]
        return [at for at, _ in led], [best for _, best in led]

    def _chosen(self, wanted) -> tuple[list[float], list[Evaluation]]:
        pairs = [(x, e) for x, e in zip(self.x, self.evaluations, strict=True) if wanted(e)]
        return [x for x, _ in pairs], [e for _, e in pairs]


def _points(evaluations: Sequence[Evaluation], x: Sequence[float], names: Names) -> _Points:
    """Those of the evaluations that were not cut off."""
    told = [(e, at) for e, at in zip(evaluations, x, strict=True) if e.status != INTERRUPTED]
    return _Points([e for e, _ in told], [at for _, at in told], names)


def _by_number(evaluations: Sequence[Evaluation], names: Names) -> _Points:
    return _points(evaluations, [e.id or i for i, e in enumerate(evaluations, 1)], names)


def _draw_points(ax: Axes, points: _Points, metric: str, palette: Palette, best: bool = True) -> None:
    """Fitness of each; each kind of mark has a shape of its own, which the legend names."""
    size = 4 if len(points.x) < 300 else 2.5
    plain = {"linestyle": "none", "clip_on": False}
    x, finished = points.where(FINISHED)
    if finished:
        generations = sorted({e.generation for e in points.evaluations})
        for i, generation in enumerate(generations):
            chosen = [(a, e.fitness) for a, e in zip(x, finished, strict=True) if e.generation == generation]
            colour = palette.of(i / max(len(generations) - 1, 1))
            ax.plot(*zip(*chosen, strict=True) if chosen else ([], []), "o", color=colour, markersize=size, **plain)
    x, stopped = points.where(STOPPED)
    if stopped:
        label = "ended early"
        ax.plot(x, [e.fitness for e in stopped], "v", color=palette.muted, markersize=size, label=label, **plain)
    leading = points.best_so_far()
    if best and leading[0]:
        ax.step(*leading, where="post", color=palette.best, linewidth=1.4, label="best so far")
    for stage, (marker, label) in LONGER.items():
        x, longer = points.where(FINISHED, longer=True)
        chosen = [(at, e.fitness) for at, e in zip(x, longer, strict=True) if e.stage == stage]
        if chosen:
            filled = palette.curve if stage == FINAL else palette.page
            edge = {"markerfacecolor": filled, "markeredgecolor": palette.curve, "markeredgewidth": 1.3}
            ax.plot(*zip(*chosen, strict=True), marker, markersize=5, label=label, **edge, **plain)
    x, failed = [[*a, *b] for a, b in zip(points.where(*FAILURES), points.where(*FAILURES, longer=True), strict=True)]
    if failed:
        cross = {"color": palette.failure, "markersize": size + 1, "markeredgewidth": 1.4}
        ax.plot(x, [0] * len(failed), "x", label="failed", **cross, **plain)
    _draw_starts(ax, points, palette)
    ax.set_ylabel(metric)
    ax.grid(axis="x", visible=False)
    if not points.evaluations:
        ax.text(0.5, 0.5, "no evaluation has finished", transform=ax.transAxes, ha="center", color=palette.muted)
        ax.set(xticks=[], yticks=[])
    else:
        highest = max(e.fitness for e in points.evaluations)
        ax.set_ylim(0, 1.08 * highest if highest > 0 else 1)
        legend_above(ax)


def _draw_starts(ax: Axes, points: _Points, palette: Palette) -> None:
    """The proxies of the losses with a name, and the level of the best of them across the whole."""
    found = {genome: points.of(genome) for genome in points.names}
    means = {tuple(c.genome): c.mean for c in ranked_candidates(points.evaluations) if c.evaluations}
    begun = [genome for genome in found if genome in means]
    if not begun:
        return
    best = max(begun, key=means.get)
    ax.axhline(means[best], color=palette.ink, linestyle=":", linewidth=1.1)
    for genome in begun:
        x, evaluations = found[genome]
        marker = START_MARKERS[list(found).index(genome) % len(START_MARKERS)]
        line = ":" if genome == best else "none"
        look = {"color": palette.ink, "markeredgecolor": palette.page, "markersize": 10, "linewidth": 1.1}
        ax.plot(x, [e.fitness for e in evaluations], marker, linestyle="none", zorder=4, clip_on=False, **look)
        ax.plot([], [], marker, linestyle=line, label=f"{points.names[genome]}, {means[genome]:.2f}", **look)


def legend_above(ax: Axes, columns: int = 2) -> None:
    """The legend of what is labelled, above the axes; none where nothing is."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=columns, borderpad=0, columnspacing=1.2)


def _draw_history(ax: Axes, points: _Points, metric: str, palette: Palette) -> None:
    _draw_points(ax, points, metric, palette)
    ax.set_xlabel("evaluation")
    if not points.evaluations:
        return
    left, right = points.x[0] - 0.8, points.x[-1] + 0.8
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    zones = _zones(points)
    for start, _ in zones[1:]:
        ax.axvline(start, color=palette.grid, linewidth=0.9, zorder=0)
    least = (right - left) / 10  # of a zone with a label: they are not to touch
    last, first = -np.inf, True
    for (start, name), end in zip(zones, [*(start for start, _ in zones[1:]), right], strict=True):
        middle = (start + end) / 2
        if middle - last < least * (1 if name.isdigit() else 1.4):
            continue
        last = middle
        text = f"gen {name}" if first and name.isdigit() else name
        first = False
        where = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(middle, 1.0, text, color=palette.muted, **where)


def _zones(points: _Points) -> list[tuple[float, str]]:
    """Where generations and the trainings after them begin, and their names."""
    zones: list[tuple[float, str]] = []
    generation = -1
    for i, e in enumerate(points.evaluations):
        if e.stage in LONGER:
            name = {FINAL: "finals", RUN_OFF: "run-off", CONFIRM: "confirmed"}[e.stage]
        else:
            generation = max(generation, e.generation)  # repeats of earlier generations come later
            name = str(generation)
        if not zones or zones[-1][1] != name:
            begin = (points.x[i - 1] + points.x[i]) / 2 if i else points.x[0] - 0.8
            zones.append((begin, name))
    return zones


def history_figure(evaluations: Sequence[Evaluation], metric: str = "AP", names: Names | None = None) -> Figure:
    """Fitness of every evaluation against its number, the best so far, failures at 0, borders of generations.

    Interrupted evaluations say nothing about their genome and are left out.
    """
    with matplotlib.rc_context(LIGHT.rc(9)):
        figure = Figure(figsize=(8, 4), layout="constrained")
        ax = figure.subplots()
        _draw_history(ax, _by_number(evaluations, names or {}), metric, LIGHT)
        if ax.get_legend():
            legend_above(ax, 4)
    return figure


def draw_history(
    evaluations: Sequence[Evaluation], path: str | os.PathLike[str], metric: str = "AP", names: Names | None = None
) -> None:
    """Write the picture of :func:`history_figure`.

    Raises:
        UserError: a format that cannot be written.
        OSError: the file cannot be written.
    """
    save_figure(history_figure(evaluations, metric, names), path)


def history_svg(evaluations: Sequence[Evaluation], metric: str = "AP", names: Names | None = None) -> str:
    """The picture of :func:`history_figure` for a page."""
    with chart() as (figure, ax):
        _draw_history(ax, _by_number(evaluations, names or {}), metric, PLACEHOLDERS)
    return inline_svg(figure, "history", f"{metric} of every evaluation and the best so far")


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits this span of time, and the unit's name."""
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def compute_svg(evaluations: Sequence[Evaluation], metric: str = "AP", names: Names | None = None) -> str:
    """Fitness against the seconds of training spent until its evaluation ended, those of all workers together."""
    spent = np.cumsum([e.seconds for e in evaluations]).tolist()
    unit, name = time_unit(spent[-1] if spent else 0)
    points = _points(evaluations, [s / unit for s in spent], names or {})
    with chart() as (figure, ax):
        _draw_points(ax, points, metric, PLACEHOLDERS)
        ax.set_xlabel(f"{name} of training, all workers together")
        if points.x and points.x[-1] > 0:
            ax.set_xlim(0, 1.03 * points.x[-1])
    return inline_svg(figure, "compute", f"{metric} against training time")


def spread_svg(evaluations: Sequence[Evaluation], metric: str = "AP", names: Names | None = None) -> str:
    """Every generation's fitnesses, with their quartiles and median; failures apart, at 0, and no repeats."""
    asked = [e for e in evaluations if e.stage == SEARCH and e.status != INTERRUPTED]
    generations = sorted({e.generation for e in asked})
    palette = PLACEHOLDERS
    # side by side within a generation, in the order of asking, so that equal values stay apart
    positions: dict[int, list[int]] = {g: sorted({e.position for e in asked if e.generation == g}) for g in generations}
    x = []
    for e in asked:
        of = positions[e.generation]
        place = (of.index(e.position) + 0.5) / len(of) - 0.5
        x.append(generations.index(e.generation) + 0.5 * place)
    with chart() as (figure, ax):
        _draw_points(ax, _Points(asked, x, names or {}), metric, palette, best=False)
        label = "median and quartiles"
        for i, generation in enumerate(generations):
            values = [e.fitness for e in asked if e.generation == generation and e.status == FINISHED]
            if values:
                low, middle, high = np.percentile(values, [25, 50, 75])
                ax.fill_between(
                    [i - 0.38, i + 0.38], low, high, facecolor="none", edgecolor=palette.muted, linewidth=0.9
                )
                ax.plot([i - 0.38, i + 0.38], [middle] * 2, color=palette.best, linewidth=1.6, label=label)
                label = None
        if generations:
            ax.set_xlim(-0.6, len(generations) - 0.4)
            every = -(-len(generations) // 16)
            ax.set_xticks(range(0, len(generations), every), [str(g) for g in generations[::every]])
            legend_above(ax)
        ax.set_xlabel("generation")
    return inline_svg(figure, "spread", f"{metric} of every generation")
