"""Several searches on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from paramap_d2.search.comparison import COLUMNS, Compared, differing_settings

from .drawing import PLACEHOLDERS, chart, inline_svg
from .history import legend_above
from .page import render
from .tables import Table, number, numbers

LINES = (
    ("curve", "-", "o"),
    ("best", "--", "s"),
    ("failure", "-.", "^"),
    ("ink", ":", "D"),
    ("muted", (0, (6, 2)), "v"),
)
"""Colour, dashes and marker of each search's line: told apart by more than a colour. From the sixth on they come again,
with the marker of another."""


def compare_html(searches: Sequence[Compared]) -> str:
    """The page; one that needs nothing beside it."""
    metrics = {search.metric for search in searches}
    return render(
        "compare.html.jinja",
        count=len(searches),
        metrics=sorted(metrics),
        outcomes=Table("What each has come to", [(name, False) for name in COLUMNS], [s.row() for s in searches]),
        over_proxies=Markup(_over(searches, 0, "proxies")),
        over_hours=Markup(_over(searches, 1, "hours of training, all workers together")),
        milestones=_milestones(searches),
        differences=_differences(searches),
    )


def _over(searches: Sequence[Compared], what: int, label: str) -> str:
    """The best so far of each search against the number of proxies (0) or hours (1)."""
    metric = " or ".join(sorted({search.metric for search in searches}))
    with chart() as (figure, ax):
        for i, search in enumerate(searches):
            colour, line, marker = LINES[i % len(LINES)]
            marker = marker if i < len(LINES) else LINES[(i + 1 + i // len(LINES)) % len(LINES)][2]
            led = search.best_so_far()
            x, y = [point[what] for point in led], [point[2] for point in led]
            ax.step(x, y, where="post", linestyle=line, color=getattr(PLACEHOLDERS, colour), linewidth=1.6)
            ends = {"color": getattr(PLACEHOLDERS, colour), "markersize": 6, "clip_on": False}
            ax.plot(x[-1:], y[-1:], marker, **ends)
            ax.plot([], [], marker=marker, linestyle=line, label=search.name, **ends)
        highest = max((point[2] for search in searches for point in search.best_so_far()), default=0)
        ax.set_ylim(0, 1.08 * highest if highest > 0 else 1)
        ax.set_xlim(left=0)
        ax.set(xlabel=label, ylabel=f"best {metric} so far")
        legend_above(ax, 1 if max(len(search.name) for search in searches) > 20 else 2)
    return inline_svg(figure, f"over-{what}", f"Best {metric} so far of each search against {label}")


def _milestones(searches: Sequence[Compared]) -> Table:
    """The best so far after 8, 16, 32 … proxies and after all, with the hours until then."""
    most = max((len(search.proxies) for search in searches), default=0)
    counts = [2**power for power in range(3, most.bit_length())] or [1]
    rows = []
    for search in searches:
        at = {count: (hours, best) for count, hours, best in search.best_so_far()}
        cells = [number(at[count][1]) if count in at else "–" for count in counts]
        last = at[max(at)] if at else None
        rows.append([search.name, *cells, number(last and last[1]), number(last and last[0])])
    columns = [*(f"after {count}" for count in counts), "after all", "hours in all"]
    return Table("Best so far after so many proxies", [("search", False), *numbers(*columns)], rows)


def _differences(searches: Sequence[Compared]) -> Table | None:
    found = differing_settings(searches)
    rows = [[key, *(map(_short, values))] for key, values in found.items()]
    columns = [("setting", False), *((search.name, False) for search in searches)]
    return Table("Settings that are not the same", columns, rows) if rows else None


def _short(value: Any) -> str:
    text = "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
