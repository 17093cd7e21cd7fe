"""Pictures of a loss's functions: as files on white paper, and as SVG that takes a page's colours."""

from __future__ import annotations

import os
from collections.abc import Mapping

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paramap_d2.losses import FUNCTION_NAMES, HeadLoss, PiecewiseLinear, RankingFunction

from .drawing import LIGHT, PLACEHOLDERS, Palette, inline_svg, save_figure

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
    with matplotlib.rc_context(PLACEHOLDERS.rc(11)):
        figure = Figure(figsize=(2.3, 2.5), layout="constrained")
        _draw_function(figure.subplots(), name, function, PLACEHOLDERS)
    told = ""
    if isinstance(function, PiecewiseLinear):
        told = ": " + ", ".join(f"({x:.3f}, {y:.3f})" for x, y in zip(*curve(name, function), strict=True))
    return inline_svg(figure, key, f"The function {name}{told}; dashed: the identity")
