"""The paper's tables as Markdown, and a picture of each."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from paper_plans import PUBLISHED, TITLES, Cell, Part, Plan, row_of, searched
from paper_rows import RESULTS
from scipy.stats import spearmanr

from paramap_d2.losses import HeadLoss, load_loss
from paramap_d2.search.confirmation import half_width
from paramap_d2.search.report.drawing import LIGHT, save_figure
from paramap_d2.search.report.functions import draw_functions
from paramap_d2.search.report.over_iterations import draw_curves

Rows = Mapping[str, Mapping[str, Any]]

NOT_YET = "not trained yet"

NORMAL = 1.96
"""Standard deviations to either side that hold 95 %."""


def mean_error(values: Sequence[float]) -> str:
    """``52.3 ± 0.4``, the mean and its standard error; of one value no error."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def ended(cell: Cell, rows: Rows) -> list[Mapping[str, Any]]:
    return [row for training in cell.trainings if (row := row_of(training, rows)) is not None]


def aps(cell: Cell, rows: Rows) -> list[float]:
    return [row["AP"] for row in ended(cell, rows)]


def best_baseline(part: Part, rows: Rows) -> Cell | None:
    there = [cell for cell in part.against if aps(cell, rows)]
    return max(there, key=lambda cell: statistics.fmean(aps(cell, rows)), default=None)


def table(part: Part, rows: Rows) -> str:
    """One part: a row a cell, with how many of its trainings have ended, and what they were trained with below."""
    figures = ("AP", "AP50", "AP75")
    columns = [*part.columns, *figures, "seeds", "diverged"]
    baseline = best_baseline(part, rows)
    if baseline is not None:
        columns.append(f"AP less {baseline.labels[0]}'s, 95 % interval over seeds")
        if drawn := all(row["resampled"] for row in ended(baseline, rows)):
            columns.append("over seeds and images")
    lines = [
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(part.columns) + " ---: |" * (len(columns) - len(part.columns)),
    ]
    for cell in part.cells:
        found = ended(cell, rows)
        by_name = {name: [row[name] for row in found] for name in figures}
        values = ["" if None in of_name else mean_error(of_name) for of_name in by_name.values()]
        seeds = ", ".join(str(row["seed"]) for row in found) or NOT_YET
        if len(found) < len(cell.trainings) and found:
            seeds += f" of {len(cell.trainings)}"
        entries = [*cell.labels, *values, seeds, str(sum(row["status"] == "diverged" for row in found) or "")]
        if baseline is not None:
            entries.append("" if cell is baseline else difference(aps(cell, rows), aps(baseline, rows)))
            if drawn:
                entries.append("" if cell is baseline else over_images(found, ended(baseline, rows)))
        lines.append(f"| {' | '.join(entries)} |")
    return "\n".join(lines)


def difference(values: Sequence[float], others: Sequence[float]) -> str:
    """Of two means, with Welch's interval where there is a spread to make it from."""
    if not values or not others:
        return ""
    gain = statistics.fmean(values) - statistics.fmean(others)
    if min(len(values), len(others)) < 2:
        return f"{gain:+.1f}"
    if (half := half_width(values, others)) is None:
        return f"{gain:+.1f}"
    return f"{gain:+.1f} ({gain - half:+.1f} to {gain + half:+.1f})"


def over_images(found: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """The interval of :func:`difference` with what hangs on the images: the spread of the difference over draws of
    them, the same draws for both, in quadrature with that over seeds."""
    if min(len(found), len(others)) < 2 or not all(row["resampled"] for row in found):
        return ""
    values, baselines = ([row["AP"] for row in of_cell] for of_cell in (found, others))
    gain = statistics.fmean(values) - statistics.fmean(baselines)
    means = [np.mean([row["resampled"] for row in of_cell], axis=0) for of_cell in (found, others)]
    images = NORMAL * np.nanstd(means[0] - means[1], ddof=1)
    half = math.hypot(half_width(values, baselines) or 0.0, images)
    return f"{gain - half:+.1f} to {gain + half:+.1f}"


def rank_correlation(proxies: Part, whole: Part, rows: Rows) -> str:
    """Spearman's between what proxies and whole trainings with the same losses come to, of the losses that have both:
    by the mean AP of all proxies, and by one proxy of each, as a search has it."""
    cells = list(zip(proxies.cells, whole.cells, strict=True))
    found = [pair for short, long in cells if all(pair := (aps(short, rows), aps(long, rows)))]
    if len(found) < 3:
        return f"{len(found)} losses have both; a rank correlation takes three."
    means = [statistics.fmean(long) for _, long in found]

    def to_means(values: Sequence[float]) -> str:
        return f"{spearmanr(values, means).statistic:.2f}"

    singles = [[short[n] for short, _ in found] for n in range(min(len(short) for short, _ in found))]
    text = f"Rank correlation (Spearman's) of {len(found)} losses: {to_means([statistics.fmean(s) for s, _ in found])}"
    return text + f" by the means, {', '.join(map(to_means, singles))} by single proxies."


def budget(part: Part, rows: Rows) -> str:
    """What the figures of a part were made with."""
    trainings = [training for cell in part.cells for training in cell.trainings]
    found = [row for cell in part.cells for row in ended(cell, rows)]

    def listed(name: str) -> str:
        return ", ".join(dict.fromkeys(f"{getattr(training, name)}" for training in trainings))

    hours = sum(row["cpu_seconds"] or 0 for row in found) / 3600
    versions = {" ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()) for row in found}
    text = (
        f"{len(found)} of {len(trainings)} trainings; data {listed('dataset')}, AP on {listed('split')}; "
        f"{listed('iterations')} iterations at learning rate {listed('learning_rate')}; "
        f"mean ± standard error over seeds; {hours:.1f} CPU hours."
    )
    return text + (f" By {'; '.join(sorted(versions))}." if versions else "")


def report(name: str, plan: Plan, rows: Rows, folder: Path) -> str:
    """Write ``<name>.md`` and its pictures to the folder, those of losses and trainings that are there; of other data
    than BCCD ``<name>_<dataset>.md``.

    Returns:
        the Markdown.
    """
    parts = plan.parts(name, rows)
    stem = name if plan.dataset == "bccd" else f"{name}_{plan.dataset}"
    lines = [f"# {TITLES[name]}"]
    for number, part in enumerate(parts):
        picture = f"{stem}.png" if number == 0 else f"{stem}_{number + 1}.png"
        if part.title != TITLES[name]:
            lines.append(f"## {part.title}")
        lines += [table(part, rows), budget(part, rows)] if part.cells else ["What is to be trained is not known yet."]
        if any(ended(cell, rows) for cell in part.cells):
            draw_part(part, rows, folder / picture)
            lines.append(f"![{part.title}]({picture})")
        judged = name == "final" and part.cells and part.cells[0].trainings[0].split == "test"
        if (judged or name == "curves") and (on_the_way := curves(part, rows)):
            picture = picture.replace(".png", "_over_iterations.png")
            draw_curves(on_the_way, folder / picture, f"{plan.dataset}_val")
            lines += [
                "AP on val on the way, means over seeds:",
                curve_table(on_the_way),
                f"![Over iterations]({picture})",
            ]
    if name == "ranks":
        lines.append(rank_correlation(*parts, rows))
    if name == "figure1":
        losses = functions(plan)
        draw_functions(losses, folder / f"{stem}.png")
        lines.append("The published losses, and those that were searched here, as far as there are.")
        lines.append(f"![{TITLES[name]}]({stem}.png)")
    text = "\n\n".join(lines) + "\n"
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    return text


def functions(plan: Plan) -> dict[str, HeadLoss]:
    """Heads of the published losses and of those that were searched on the data."""
    losses = {}
    for detector in plan.detectors:
        if PUBLISHED[detector] != "square":
            losses.update(_heads(PUBLISHED[detector], PUBLISHED[detector]))
        path = RESULTS / "losses" / f"{searched(plan.dataset, detector)}.json"
        if path.exists():
            losses.update(_heads(path.stem, path))
    return losses


def _heads(name: str, loss: Any) -> dict[str, HeadLoss]:
    return {f"{name}, {head}": of_head for head, of_head in load_loss(loss).items()}


def draw_part(part: Part, rows: Rows, path: Path) -> None:
    """Every training a point; their mean with its standard error."""
    with matplotlib.rc_context(LIGHT.rc(9)):
        figure = Figure(figsize=(7, 0.9 + 0.28 * len(part.cells)), layout="constrained")
        ax = figure.subplots()
        for place, cell in enumerate(part.cells):
            values = aps(cell, rows)
            if not values:
                ax.annotate(NOT_YET, (0.02, place), xycoords=("axes fraction", "data"), va="center", color=LIGHT.muted)
                continue
            ax.plot(values, [place] * len(values), "o", color=LIGHT.muted, alpha=0.5, markersize=4, zorder=1)
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0
            ax.errorbar(statistics.fmean(values), place, xerr=error, fmt="D", color=LIGHT.best, markersize=5, capsize=3)
        ax.set_yticks(range(len(part.cells)), [", ".join(cell.labels) for cell in part.cells])
        ax.set_ylim(len(part.cells) - 0.5, -0.5)
        ax.set_xlabel(f"AP on {part.cells[0].trainings[0].split} (points: seeds; bars: mean ± standard error)")
        save_figure(figure, path)


def curves(part: Part, rows: Rows) -> dict[str, list[list[list[float]]]]:
    """AP on val over iterations, by cell and seed."""
    found = {}
    for cell in part.cells:
        if seeds := [row["curve"] for row in ended(cell, rows) if row["status"] == "finished" and row["curve"]]:
            found[f"{', '.join(cell.labels)} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"] = seeds
    return found


def curve_table(curves: Mapping[str, list[list[list[float]]]]) -> str:
    """What :func:`curves` gives as a table; every training was looked at after the same iterations. Of five losses and
    more a last row has Spearman's rank correlation of the means there and at the end: how well a training of so many
    iterations would tell them apart."""
    columns = [f"{iteration:.0f}" for iteration, _ in next(iter(curves.values()))[0]]
    lines = [f"| iterations | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    means = {
        name: [statistics.fmean(aps) for aps in zip(*([ap for _, ap in seed] for seed in seeds), strict=True)]
        for name, seeds in curves.items()
    }
    lines += [f"| {name} | {' | '.join(f'{mean:.1f}' for mean in of_name)} |" for name, of_name in means.items()]
    if len(means) >= 5:
        *before, end = zip(*means.values(), strict=True)
        ranks = [f"{spearmanr(there, end).statistic:.2f}" for there in before]
        lines.append(f"| rank correlation with the end | {' | '.join(ranks)} | |")
    return "\n".join(lines)
