"""What all pictures share: colours, empty axes, and the ways they are kept, as files and as SVG in a page's colours."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paramap_d2.errors import UserError
from paramap_d2.files import write_whole


@dataclass(frozen=True)
class Palette:
    """Colours of a picture, as #rrggbb. The hues are Okabe and Ito's, apart for every kind of colour vision."""

    page: str
    ink: str
    muted: str
    grid: str
    curve: str
    best: str
    failure: str
    ramp: tuple[str, ...]  # from first or lowest, near the background's lightness, to last or highest

    def names(self) -> list[tuple[str, str]]:
        """(name, colour) of each, those of the ramp as ramp0, ramp1, …"""
        plain = [(f.name, value) for f, value in zip(fields(self), astuple(self), strict=True) if f.name != "ramp"]
        return plain + [(f"ramp{i}", colour) for i, colour in enumerate(self.ramp)]

    def of(self, fraction: float) -> str:
        """The ramp's colour at 0 … 1."""
        return self.ramp[min(int(fraction * len(self.ramp)), len(self.ramp) - 1)]

    def rc(self, size: float) -> dict[str, Any]:
        """Matplotlib's settings for pictures in these colours, with letters of ``size`` points."""
        return {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # Matplotlib brings it
            "font.size": size,
            "axes.titlesize": size,
            "axes.titleweight": "bold",
            "text.color": self.ink,
            "text.parse_math": False,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.facecolor": "none",
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "legend.frameon": False,
            "legend.handlelength": 1.6,
        }


def _ramp(start: float, end: float) -> tuple[str, ...]:
    colours = matplotlib.colormaps["viridis"](np.linspace(start, end, 12))
    return tuple(matplotlib.colors.to_hex(c) for c in colours)


LIGHT = Palette("#ffffff", "#1b1f24", "#666d7a", "#dfe3e8", "#0072b2", "#d55e00", "#a3246e", _ramp(0.58, 0.0))
"""For a white background."""

DARK = Palette("#15181c", "#e6e8eb", "#9aa3ae", "#363c45", "#56b4e9", "#ff7a52", "#e79cc8", _ramp(0.36, 0.93))
"""For a dark one."""

LIGHT_PANEL, DARK_PANEL = "#f5f6f8", "#1e2228"
"""Backgrounds of panels of a page."""

PLACEHOLDERS = Palette(*(f"#0b0c0{i}" for i in range(7)), tuple(f"#0b0c{i + 16:02x}" for i in range(12)))
_VARIABLES = {colour: f"var(--{name})" for name, colour in PLACEHOLDERS.names()}


LETTERS = 10
"""Their size in pictures for a page, in units of the pictures' width. A :func:`chart` is 346 units wide: on a screen of
360 pixels its letters still have more than 9."""


@contextmanager
def chart(height: float = 3.3) -> Iterator[tuple[Figure, Axes]]:
    """An empty picture for a page, as high as so many inches of a width of 4.8, and the settings to draw in it."""
    with matplotlib.rc_context(PLACEHOLDERS.rc(LETTERS)):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        yield figure, figure.subplots()


def inline_svg(figure: Figure, key: str, label: str, scroll: bool = False) -> str:
    """The figure as an element of an HTML page: as wide as its place, its colours the page's CSS variables
    (:meth:`Palette.names`), its letters text. ``key`` makes the ids unique in the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style [^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\1{key}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r"#0b0c[0-9a-f]{2}", lambda match: _VARIABLES[match[0]], svg)
    width, height = figure.get_size_inches() * 72
    style = f' style="min-width: {width:.0f}px"' if scroll else ""
    opening = (
        f'<svg role="img" aria-label="{html.escape(label)}"{style} viewBox="0 0 {width:g} {height:g}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"^<svg[^>]*>", opening, svg)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure whole or not at all; the suffix of the path (.png, .pdf, .svg …) says in which format.

    Raises:
        UserError: a format that cannot be written.
        OSError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    formats = figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        raise UserError(f"cannot draw to {os.fspath(path)}: its name must end in one of .{', .'.join(formats)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=160, facecolor="white")
    write_whole(path, buffer.getvalue())
