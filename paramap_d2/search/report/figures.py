"""Pictures of a loss and of a search: as files on white paper, and as SVG that takes a page's colours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paramap_d2.losses import FUNCTION_NAMES, HeadLoss, PiecewiseLinear, RankingFunction
from paramap_d2.search.candidates import leading_means
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import CONFIRM, FAILURES, FINAL, FINISHED, INTERRUPTED, SEARCH, STOPPED, Evaluation

from .drawing import LIGHT, PLACEHOLDERS, Palette, chart, inline_svg, save_figure

MOST_LINES = 300
"""Parallel coordinates show this many of the best genomes; more are one grey mass and megabytes."""

_ARGUMENTS = {
    "rank_numerator": "score difference",
    "sample_quality": "quality of a sample",
    "positive_weight": "quality of a positive",
    "positive_quality": "quality of a positive",
    "rank_denominator": "score difference",
}
_OF_DIFFERENCE = ("rank_numerator", "rank_denominator")


def merge_equal(losses: Mapping[str, HeadLoss]) -> dict[str, HeadLoss]:
    """The same losses with equal ones once, under their names joined by commas."""
    groups: dict[str, tuple[list[str], HeadLoss]] = {}
    for name, loss in losses.items():
        key = repr([f.to_json() for f in loss.functions.values()] + [loss.grad_scale])
        groups.setdefault(key, ([], loss))[0].append(name)
    return {", ".join(names): loss for names, loss in groups.values()}


def curve(name: str, function: RankingFunction) -> tuple[np.ndarray, np.ndarray]:
    """x and y, two arrays of equal length, of the function as the loss applies it under this name.

    Functions of a score difference are given from −1 to 1, where piecewise linear ones saturate, and those that
    never saturate from −4 to 4; functions of a quality from 0 to 1.
    """
    if name in _OF_DIFFERENCE:
        span = 1 if function.saturates else 4
        if isinstance(function, PiecewiseLinear):
            return 2 * np.array(function.x) - 1, np.array(function.y)
        d = torch.linspace(-span, span, 401, dtype=torch.float64)
        return d.numpy(), function.of_difference(d).numpy()
    if isinstance(function, PiecewiseLinear):
        return np.array(function.x), np.array(function.y)
    q = torch.linspace(0, 1, 401, dtype=torch.float64)
    return q.numpy(), function.of_quality(q).numpy()


def _draw_function(ax: Axes, name: str, function: RankingFunction, palette: Palette) -> None:
    x, y = curve(name, function)
    identity_x, identity_y = curve(name, PiecewiseLinear.identity())
    low, high = x[0], x[-1]
    ax.plot([low, *identity_x, high], [0, *identity_y, 1], "--", color=palette.muted, linewidth=0.9, label="identity")
    ax.plot(x, y, color=palette.curve, linewidth=1.8, solid_joinstyle="round", label=name)
    if isinstance(function, PiecewiseLinear):
        ax.plot(x[1:-1], y[1:-1], "o", color=palette.best, markersize=4.5, clip_on=False, label="control points")
    ax.set_box_aspect(1)
    margin = 0.03 * (high - low)
    ax.set(xlim=(low - margin, high + margin), ylim=(-0.03, 1.03), yticks=[0, 0.5, 1], yticklabels=["0", "½", "1"])
    middle = (low + high) / 2
    labels = ["0", "½", "1"] if low == 0 else [f"{v:.0f}".replace("-", "−") for v in (low, 0, high)]
    ax.set_xticks([low, middle, high], labels)
    ax.set_title(name)
    ax.set_xlabel(_ARGUMENTS[name])


def functions_figure(losses: Mapping[str, HeadLoss], title: str = "") -> Figure:
    """A row of five panels for each loss, as in the paper's Figure 1; equal losses share a row.

    Args:
        losses: by head, or by whatever the row shall be called.
    """
    rows = merge_equal(losses)
    # Places in inches: the automatic layouts give up on many rows.
    side, step, left, above, below = 1.7, 2.12, 0.45, 0.65, 0.55
    width = left + step * (len(FUNCTION_NAMES) - 1) + side + 0.2
    row_height, header = above + side + below, 0.35 if title else 0.05
    height = header + row_height * len(rows)
    with matplotlib.rc_context(LIGHT.rc(9)):
        figure = Figure(figsize=(width, height))
        if title:
            figure.text(left / width, 1 - 0.25 / height, title, weight="bold", fontsize=11)
        for row, (name, loss) in enumerate(rows.items()):
            top = height - header - row * row_height
            text = f"{name} · gradient scale {loss.grad_scale:.4g}"
            figure.text(left / width, (top - 0.25) / height, text, fontsize=10)
            for column, function in enumerate(FUNCTION_NAMES):
                corner = (left + column * step) / width, (top - above - side) / height
                ax = figure.add_axes((*corner, side / width, side / height))
                _draw_function(ax, function, loss.functions[function], LIGHT)
    return figure


def draw_functions(losses: Mapping[str, HeadLoss], path: str | os.PathLike[str], title: str = "") -> None:
    """Write the picture of :func:`functions_figure`; the path's suffix says in which format.

    Raises:
        UserError: a format that cannot be written.
        OSError: the file cannot be written.
    """
    save_figure(functions_figure(losses, title), path)


def function_svg(name: str, function: RankingFunction, key: str) -> str:
    """One panel of :func:`functions_figure` for a page."""
    with matplotlib.rc_context(PLACEHOLDERS.rc(8)):
        figure = Figure(figsize=(2.1, 2.3), layout="constrained")
        _draw_function(figure.subplots(), name, function, PLACEHOLDERS)
    return inline_svg(figure, key, f"The function {name}, with its control points and the identity")


# --- The search -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    """Evaluations that say something about their genome, ready to be drawn against x."""

    evaluations: list[Evaluation]
    x: list[float]

    def of(self, *statuses: str) -> tuple[list[float], list[Evaluation]]:
        pairs = [(x, e) for x, e in zip(self.x, self.evaluations, strict=True) if e.status in statuses]
        return [x for x, _ in pairs], [e for _, e in pairs]

    def best_so_far(self) -> tuple[list[float], list[float]]:
        led = [(x, best) for x, best in zip(self.x, leading_means(self.evaluations), strict=True) if best is not None]
        return [x for x, _ in led], [best for _, best in led]


def _proxies(evaluations: Sequence[Evaluation], x: Sequence[float]) -> _Points:
    """Those of the evaluations that say something about their genome and can be compared: no longer ones."""
    told = [
        (e, at)
        for e, at in zip(evaluations, x, strict=True)
        if e.status != INTERRUPTED and e.stage not in (FINAL, CONFIRM)
    ]
    return _Points([e for e, _ in told], [at for _, at in told])


def _by_number(evaluations: Sequence[Evaluation]) -> _Points:
    return _proxies(evaluations, [e.id or i for i, e in enumerate(evaluations, 1)])


def _colour_of_generation(points: _Points, palette: Palette) -> dict[int, str]:
    generations = sorted({e.generation for e in points.evaluations})
    last = max(len(generations) - 1, 1)
    return {g: palette.of(i / last) for i, g in enumerate(generations)}


def _draw_points(ax: Axes, points: _Points, metric: str, palette: Palette) -> None:
    """Fitness of each, coloured by generation, the best so far, and failures at 0."""
    colours = _colour_of_generation(points, palette)
    size = 4 if len(points.x) < 300 else 2.5
    x, finished = points.of(FINISHED)
    for generation, colour in colours.items():
        chosen = [(a, e.fitness) for a, e in zip(x, finished, strict=True) if e.generation == generation]
        if chosen:
            ax.plot(*zip(*chosen, strict=True), "o", color=colour, markersize=size, clip_on=False)
    x, stopped = points.of(STOPPED)
    if stopped:
        fitness = [e.fitness for e in stopped]
        ax.plot(x, fitness, "v", color=palette.muted, markersize=size, clip_on=False, label="stopped early")
    best = points.best_so_far()
    if best[0]:
        ax.step(*best, where="post", color=palette.best, linewidth=1.4, label="best so far")
    x, failed = points.of(*FAILURES)
    if failed:
        ax.plot(
            x,
            [0] * len(failed),
            "x",
            color=palette.failure,
            markersize=size + 1,
            markeredgewidth=1.4,
            clip_on=False,
            label="failed",
        )
    ax.set_ylabel(metric)
    ax.grid(axis="x", visible=False)
    if not points.evaluations:
        ax.text(0.5, 0.5, "no evaluation has finished", transform=ax.transAxes, ha="center", color=palette.muted)
        ax.set(xticks=[], yticks=[])
    else:
        highest = max(e.fitness for e in points.evaluations)
        ax.set_ylim(0, 1.08 * highest if highest > 0 else 1)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.04), ncols=3, borderpad=0)


def _draw_history(ax: Axes, evaluations: Sequence[Evaluation], metric: str, palette: Palette) -> None:
    points = _by_number(evaluations)
    _draw_points(ax, points, metric, palette)
    ax.set_xlabel("evaluation")
    if not points.evaluations:
        return
    ax.set_xlim(points.x[0] - 0.8, points.x[-1] + 0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    starts = [points.x[0] - 0.8]
    names = [points.evaluations[0].generation]
    for i in range(1, len(points.x)):
        if points.evaluations[i].generation > names[-1]:  # repeats of earlier generations come later
            starts.append((points.x[i - 1] + points.x[i]) / 2)
            names.append(points.evaluations[i].generation)
    for start in starts[1:]:
        ax.axvline(start, color=palette.grid, linewidth=0.9, zorder=0)
    every = -(-len(names) // 12)
    ends = [*starts[1:], points.x[-1] + 0.8]
    for i, (start, end, name) in enumerate(zip(starts, ends, names, strict=True)):
        if i % every == 0:
            ax.text(
                (start + end) / 2,
                1.0,
                f"gen {name}" if i == 0 else str(name),
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize="small",
                color=palette.muted,
            )


def history_figure(evaluations: Sequence[Evaluation], metric: str = "AP") -> Figure:
    """Fitness of every evaluation against its number, the best so far, failures at 0, borders of generations.

    Interrupted evaluations say nothing about their genome and are left out.
    """
    with matplotlib.rc_context(LIGHT.rc(9)):
        figure = Figure(figsize=(8, 4), layout="constrained")
        _draw_history(figure.subplots(), evaluations, metric, LIGHT)
    return figure


def draw_history(evaluations: Sequence[Evaluation], path: str | os.PathLike[str], metric: str = "AP") -> None:
    """Write the picture of :func:`history_figure`; raises as :func:`draw_functions` does."""
    save_figure(history_figure(evaluations, metric), path)


def history_svg(evaluations: Sequence[Evaluation], metric: str = "AP") -> str:
    """The picture of :func:`history_figure` for a page."""
    figure, ax = chart()
    with matplotlib.rc_context(PLACEHOLDERS.rc(9)):
        _draw_history(ax, evaluations, metric, PLACEHOLDERS)
    return inline_svg(figure, "history", f"{metric} of every evaluation and the best so far")


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits this span of time, and the unit's name."""
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def compute_svg(evaluations: Sequence[Evaluation], metric: str = "AP") -> str:
    """Fitness against the seconds of training spent until its evaluation ended, those of all workers together."""
    spent = np.cumsum([e.seconds for e in evaluations]).tolist()
    unit, name = time_unit(spent[-1] if spent else 0)
    points = _proxies(evaluations, [s / unit for s in spent])
    figure, ax = chart()
    with matplotlib.rc_context(PLACEHOLDERS.rc(9)):
        _draw_points(ax, points, metric, PLACEHOLDERS)
        ax.set_xlabel(f"{name} of training, all workers together")
        if points.x and points.x[-1] > 0:
            ax.set_xlim(0, 1.03 * points.x[-1])
    return inline_svg(figure, "compute", f"{metric} against training time")


def spread_svg(evaluations: Sequence[Evaluation], metric: str = "AP") -> str:
    """Every generation's fitnesses, with their quartiles and median; failures apart, at 0, and no repeats."""
    points = _by_number([e for e in evaluations if e.stage == SEARCH])
    generations = sorted({e.generation for e in points.evaluations})
    palette = PLACEHOLDERS
    figure, ax = chart()
    with matplotlib.rc_context(palette.rc(9)):
        # side by side within a generation, in the order of asking, so that equal values stay apart
        positions: dict[int, list[int]] = {g: [] for g in generations}
        for e in points.evaluations:
            positions[e.generation].append(e.position)
        places = {g: {p: i for i, p in enumerate(sorted(set(of)))} for g, of in positions.items()}
        x = []
        for e in points.evaluations:
            place = (places[e.generation][e.position] + 0.5) / len(places[e.generation]) - 0.5
            x.append(generations.index(e.generation) + 0.5 * place)
        _draw_points(ax, _Points(points.evaluations, x), metric, palette)
        for line in ax.lines:
            if line.get_label() == "best so far":
                line.remove()
        for i, generation in enumerate(generations):
            values = [e.fitness for e in points.of(FINISHED)[1] if e.generation == generation]
            if values:
                low, middle, high = np.percentile(values, [25, 50, 75])
                ax.fill_between([i - 0.38, i + 0.38], low, high, color=palette.muted, alpha=0.22, linewidth=0)
                label = "median" if "median" not in ax.get_legend_handles_labels()[1] else None
                ax.plot([i - 0.38, i + 0.38], [middle] * 2, color=palette.best, linewidth=1.6, label=label)
        if generations:
            ax.set_xlim(-0.6, len(generations) - 0.4)
            every = -(-len(generations) // 16)
            ax.set_xticks(range(0, len(generations), every), [str(g) for g in generations[::every]])
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.04), ncols=2, borderpad=0)
        ax.set_xlabel("generation")
    return inline_svg(figure, "spread", f"{metric} of every generation")


def genes_svg(
    evaluations: Sequence[Evaluation], space: SearchSpace, head: str, best: Sequence[float] | None = None
) -> str:
    """Parallel coordinates of the genes of one head, coloured by fitness (by rank: lowest to highest).

    At most the :data:`MOST_LINES` best are drawn; the identity is dashed, the genome ``best`` emphasised.
    """
    palette = PLACEHOLDERS
    genes = [(i, name.split(".")[1:]) for i, name in enumerate(space.gene_names) if name.split(".")[0] == head]
    columns = [i for i, _ in genes]
    finished = [e for e in evaluations if e.status == FINISHED and e.stage == SEARCH]
    finished = sorted(finished, key=lambda e: e.fitness)[-MOST_LINES:]
    with matplotlib.rc_context(palette.rc(8)):
        figure = Figure(figsize=(max(5.0, 0.27 * len(genes) + 0.8), 3), layout="constrained")
        ax = figure.subplots()
        x = np.arange(len(genes))
        lines = [np.column_stack([x, np.take(e.genome, columns)]) for e in finished]
        colours = [palette.of(i / max(len(finished) - 1, 1)) for i in range(len(finished))]
        ax.add_collection(LineCollection(lines, colors=colours, linewidths=0.9, alpha=0.7))
        ax.plot(x, np.take(space.identity(), columns), "--", color=palette.muted, linewidth=1.1, label="identity")
        if best is not None:
            y = np.take(best, columns)
            ax.plot(x, y, color=palette.page, linewidth=5)
            ax.plot(x, y, "-o", color=palette.best, linewidth=2, markersize=3.5, clip_on=False, label="best")
        ax.set(xlim=(-0.6, len(genes) - 0.4), ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "½", "1"])
        ax.set_xticks(x, ["scale" if len(name) == 1 else name[1] for _, name in genes])
        ax.tick_params(axis="x", labelsize=6.5, length=2)
        ax.set_ylabel("gene")
        functions = [name[0] if len(name) == 2 else "" for _, name in genes]
        for start in (i for i in range(len(genes)) if i == 0 or functions[i] != functions[i - 1]):
            if start:
                ax.axvline(start - 0.5, color=palette.muted, linewidth=0.9)
            ax.text(start + functions.count(functions[start]) / 2 - 0.5, 1.03, functions[start], ha="center")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=2, borderpad=0)
    return inline_svg(figure, f"genes-{head}", f"Parallel coordinates of the genes of head {head}", scroll=True)
