"""A picture of trainings: how far each loss has come by when."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from .drawing import LIGHT, save_figure

Curve = Sequence[tuple[int, float]]
"""(iteration, AP in percent) pairs."""

HUES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a3246e", "#666d7a")
"""Okabe and Ito's, apart for every kind of colour vision. Lines that have one again are dashed."""


def draw_curves(curves: Mapping[str, Sequence[Curve]], path: str | os.PathLike[str], where: str) -> None:
    """Write a picture of AP over iterations: a line for each loss, of several trainings their mean and range.

    Args:
        curves: those of a loss by its name, one for each seed, all with the same iterations.
        path: its suffix says in which format.
        where: the data set that the AP is of.

    Raises:
        UserError: a format that cannot be written.
        OSError: the file cannot be written.
    """
    with matplotlib.rc_context(LIGHT.rc(9)):
        figure = Figure(figsize=(8, 4), layout="constrained")
        ax = figure.subplots()
        for place, (name, seeds) in enumerate(curves.items()):
            at = [iteration for iteration, _ in seeds[0]]
            values = [[ap for _, ap in step] for step in zip(*seeds, strict=True)]
            hue, look = HUES[place % len(HUES)], "s--" if place // len(HUES) % 2 else "o-"
            ax.plot(at, [statistics.fmean(v) for v in values], look, color=hue, label=name, markersize=3.5)
            if len(seeds) > 1:
                ax.fill_between(at, [min(v) for v in values], [max(v) for v in values], color=hue, alpha=0.15, lw=0)
        ax.set_xlabel("iteration")
        ax.set_ylabel(f"AP on {where}")
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        if curves:
            ax.legend(loc="lower right")
        save_figure(figure, path)
