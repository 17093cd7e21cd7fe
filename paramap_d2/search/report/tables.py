"""Rows of the page's tables; what its charts show, in numbers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paramap_d2.search.candidates import last_tries, leading_means
from paramap_d2.search.confirmation import signed
from paramap_d2.search.status import duration
from paramap_d2.search.store import FAILURES, FINISHED, SEARCH, STOPPED, Evaluation

from .curves import looks
from .history import LONGER
from .seeds import OfLoss

Column = tuple[str, bool]
"""Its name, and whether it is one of numbers."""

Rows = list[list[Any]]


def numbers(*names: str) -> list[Column]:
    """Columns of numbers."""
    return [(name, True) for name in names]


def number(value: float | None) -> str:
    """With two digits; a dash for none."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


@dataclass(frozen=True)
class Table:
    caption: str
    columns: list[Column]
    rows: Rows


_GENERATION = ("generation", "proxies", "to the end", "ended early", "failed")
_REACHED = ("lowest", "median", "highest", "best so far", "time spent")


def generation_table(evaluations: Sequence[Evaluation]) -> Table:
    """A row for each generation: its proxies, repeats left out, of each the last try, and the time of all that was
    trained until its end."""
    rows = []
    spent = leading = None
    proxies = last_tries(evaluations)
    best = dict(zip((id(e) for e in proxies), leading_means(proxies), strict=True))
    for generation in sorted({e.generation for e in proxies}):
        asked = [e for e in proxies if e.generation == generation and e.stage == SEARCH]
        fitnesses = [e.fitness for e in asked if e.status == FINISHED]
        if asked:
            leading, spent = best[id(asked[-1])], sum(e.seconds for e in evaluations if e.id <= asked[-1].id)
        counts = [sum(e.status in of for e in asked) for of in ((FINISHED,), (STOPPED,), FAILURES)]
        figures = [f(fitnesses) if fitnesses else None for f in (min, statistics.median, max)]
        rows.append([generation, len(asked), *counts, *map(number, [*figures, leading]), duration(spent or 0)])
    return Table("Proxies of each generation, repeats left out", numbers(*_GENERATION, *_REACHED), rows)


def look_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """A row for each number of iterations after which proxies are looked at; None where none is."""
    rows = [[look.iteration, look.looked_at, number(look.median), look.ended] for look in looks(evaluations)]
    columns = numbers("iterations", "looked at", "median", "ended there")
    return Table("Proxies on their way", columns, rows) if rows else None


def seed_table(groups: Sequence[OfLoss]) -> Table | None:
    """A row for each loss that was trained after the search; None where there is none."""
    columns = [("loss", False), ("trainings", False), *numbers("iterations", "mean", "seeds"), ("each", False)]
    rows = [
        [
            group.loss,
            f"{LONGER[group.stage][1]}s",
            group.iterations,
            number(group.mean),
            len({e.seed for e in group.evaluations}),
            ", ".join(number(e.fitness) for e in group.evaluations),
        ]
        for group in groups
    ]
    return Table("Final and confirming trainings, seed by seed", columns, rows) if rows else None


def class_table(of: Mapping[str, Sequence[Evaluation]], why: str) -> Table | None:
    """AP of each class, the mean over the evaluations of each loss, and by how much the last differs from the first.
    None where the evaluator tells no classes apart.

    Args:
        of: evaluations by the loss's name: of one loss, or of a start and what was found.
        why: which trainings these are.
    """
    means = {name: _class_means(evaluations) for name, evaluations in of.items()}
    classes = list(dict.fromkeys(name for found in means.values() for name in found))
    if not classes:
        return None
    columns = [("class", False), *numbers(*means)]
    if len(means) > 1:
        columns += numbers("difference")
    rows = []
    for name in classes:
        values = [found.get(name) for found in means.values()]
        row = [name, *map(number, values)]
        if len(values) > 1:
            row.append("–" if None in values else signed(values[-1] - values[0]))
        rows.append(row)
    return Table(f"AP of each class, {why}", columns, rows)


def _class_means(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for e in evaluations:
        for key, value in e.metrics.items():
            if found := re.fullmatch(r"bbox/AP-(.+)", key):
                values.setdefault(found[1], []).append(value)
    return {name: statistics.fmean(found) for name, found in values.items()}


def gene_table(gene_names: Sequence[str], losses: Mapping[str, Sequence[float]]) -> Table:
    """Every gene of some losses."""
    rows = [[gene, *(f"{genome[i]:.3f}" for genome in losses.values())] for i, gene in enumerate(gene_names)]
    caption = "Genes of the loss above and of those with a name"
    return Table(caption, [("gene", False), *numbers(*losses)], rows)


def version_table(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> Table | None:
    """With which versions on which machines how many evaluations were trained; None where no store told."""
    kept = [e for e in evaluations if e.versions]
    if not kept:
        return None
    keys = list(dict.fromkeys(key for e in kept for key in e.versions))
    groups: dict[tuple[str, ...], list[int]] = {}
    for e in kept:
        groups.setdefault(tuple(e.versions.get(key, "–") for key in keys), []).append(e.id)
    threads = (settings.get("options") or {}).get("threads") or "–"
    rows = [[f"{min(ids)} to {max(ids)}", len(ids), *values, threads] for values, ids in groups.items()]
    columns = [("evaluations", False), ("how many", True), *((key, False) for key in keys), ("threads each", True)]
    return Table("Versions and machines that evaluations were trained with", columns, rows)
