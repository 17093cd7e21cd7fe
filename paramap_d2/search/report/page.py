"""The report of a search: one HTML page that needs nothing beside it, made at any moment."""

from __future__ import annotations

import base64
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from paramap_d2.errors import UserError
from paramap_d2.files import write_whole
from paramap_d2.losses import HeadLoss
from paramap_d2.losses.loss_file import loss_content
from paramap_d2.search.candidates import Candidate, fitness_text, noise, ranked_candidates
from paramap_d2.search.commands import training_command
from paramap_d2.search.confirmation import Verdict, handed_over, starting_loss, verdict
from paramap_d2.search.importance import LEAST, importance
from paramap_d2.search.names import all_names, loss_names
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.status import duration, progress
from paramap_d2.search.store import FAILURES, INTERRUPTED, PROXIES, Evaluation

from . import drawing, tables
from .curves import MOST_CURVES, curves_svg, watched
from .functions import function_svg
from .genes import MOST_LINES, genes_svg
from .history import Names, compute_svg, history_svg, spread_svg
from .outcome import outcome
from .seeds import by_loss, seeds_svg

BEST = 10
"""Rows of the table of losses, those with a name apart."""

MOST_FAILURES = 50
"""Failures told in full, the latest."""

MOST_GENES = 12
"""Genes whose importance is told, the most important."""

LITTLE = 0.1
"""Of the differences between losses: a forest that explains less tells of no importance."""

LONG_SETTING = 200
"""Letters from which a setting is folded away."""

OTHER_METRICS = ("AP", "AP50", "AP75")
"""Shown beside the metric that was searched for, where the evaluations have them."""


def write_report(
    evaluations: Sequence[Evaluation],
    space: SearchSpace,
    settings: Mapping[str, Any],
    path: str | os.PathLike[str],
    folder: Path | None = None,
) -> None:
    """Write report.html, whole or not at all.

    Args:
        evaluations: those that have ended so far, in that order; none is fine.
        space: what their genomes stand for.
        settings: what the search was started with. Used where there: ``config_file``, ``metric``, ``generations``,
            ``population``, ``elite``, ``workers``, ``opts``; all are shown.
        path: of the page.
        folder: of the search, which holds ``best.json``; by default that of the page.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, report_html(evaluations, space, settings, folder or Path(path).parent).encode())


def template(name: str) -> Template:
    """One of those beside this module."""
    beside = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=beside, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def render(name: str, **values: Any) -> str:
    """A page from a template, in the colours that all pictures have."""
    return template(name).render(
        light=drawing.LIGHT.names(),
        dark=drawing.DARK.names(),
        light_panel=drawing.LIGHT_PANEL,
        dark_panel=drawing.DARK_PANEL,
        ramp=[name for name, _ in drawing.LIGHT.names() if name.startswith("ramp")],
        duration=duration,
        **values,
    )


def report_html(
    evaluations: Sequence[Evaluation], space: SearchSpace, settings: Mapping[str, Any], folder: Path
) -> str:
    """The page, for a search whose output folder is ``folder``; see :func:`write_report`."""
    metric = settings.get("metric", "AP")
    ranking = ranked_candidates(evaluations)
    best, confirmed = handed_over(evaluations, settings), verdict(evaluations, settings)
    starts, names = loss_names(settings), all_names(evaluations, settings)
    failed = [e for e in evaluations if e.status in FAILURES]
    others = [m for m in OTHER_METRICS if m != metric and any(c.mean_metric(m) is not None for c in ranking[:BEST])]
    longer = by_loss(evaluations, names)
    shown = [(rank, c) for rank, c in enumerate(ranking, 1) if rank <= BEST or tuple(c.genome) in starts]
    return render(
        "report.html.jinja",
        title=Path(settings["config_file"]).stem if settings.get("config_file") else "",
        as_of=_as_of(evaluations),
        metric=metric,
        outcome=outcome(evaluations, settings, best, confirmed, names, folder),
        progress=progress(evaluations, settings),
        interrupted=[e for e in evaluations if e.status == INTERRUPTED],
        best=best,
        best_name=best and names[tuple(best.genome)],
        best_rows=_functions(space.decode(best.genome), space) if best else [],
        best_file=_loss_file(best, space) if best else "",
        command=training_command(settings, folder / "best.json", folder / "retrained") if best else "",
        seeds=Markup(seeds_svg(longer, metric)) if longer else "",
        seed_table=tables.seed_table(longer),
        classes=_classes(evaluations, settings, best, confirmed, names),
        candidates=[_row(rank, candidate, space, others, names) for rank, candidate in shown],
        candidate_count=len(ranking),
        best_count=BEST,
        final_iterations=ranking[0].final.first.planned if ranking and ranking[0].final else None,
        confirmed=confirmed,
        noise=noise(ranking, least=3),
        other_metrics=others,
        starts=starts,
        history=Markup(history_svg(evaluations, metric, starts)),
        compute=Markup(compute_svg(evaluations, metric, starts)),
        spread=Markup(spread_svg(evaluations, metric, starts)),
        curves=Markup(curves_svg(evaluations, metric, starts)) if watched(evaluations) else "",
        watched=len(watched(evaluations)),
        most_curves=MOST_CURVES,
        in_numbers=[tables.generation_table(evaluations), tables.look_table(evaluations)],
        genes=[
            (head, Markup(genes_svg(evaluations, space, head, best.genome if best else None, starts)))
            for head in space.heads
            if best and any(name.startswith(f"{head}.") for name in space.gene_names)
        ],
        gene_table=best and tables.gene_table(space.gene_names, {"handed over": best.genome, **_by_name(starts)}),
        most_lines=MOST_LINES,
        importance=_importance(evaluations, space) if best else None,
        failures=failed[: -MOST_FAILURES - 1 : -1],
        failure_count=len(failed),
        versions=tables.version_table(evaluations, settings),
        settings={key: _setting(value) for key, value in settings.items()},
        long_setting=LONG_SETTING,
        fitness_text=fitness_text,
    )


def _as_of(evaluations: Sequence[Evaluation]) -> str:
    ended = max((e.started + e.seconds for e in evaluations if e.started), default=0)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)) if ended else ""


def _functions(losses: Mapping[str, HeadLoss], space: SearchSpace) -> list[dict[str, Any]]:
    """A row of panels for each head."""
    return [
        {
            "head": head,
            "grad_scale": loss.grad_scale,
            "fixed": head in space.fixed,
            "panels": [
                Markup(function_svg(name, function, f"{head}-{name}")) for name, function in loss.functions.items()
            ],
        }
        for head, loss in losses.items()
    ]


def _row(rank: int, candidate: Candidate, space: SearchSpace, others: Sequence[str], names: Names) -> dict[str, Any]:
    losses = space.decode(candidate.genome)
    first = candidate.first
    return {
        "name": names[tuple(candidate.genome)],
        "rank": rank,
        "number": first.id,
        "generation": first.generation,
        "mean": candidate.mean if candidate.evaluations else None,
        "seeds": len(candidate.by_seed),
        "final": candidate.final,
        "others": [candidate.mean_metric(name) for name in others],
        "grad_scales": ", ".join(f"{losses[head].grad_scale:.3g}" for head in space.heads),
        "file": _loss_file(candidate, space),
    }


def _loss_file(candidate: Candidate, space: SearchSpace) -> str:
    """In base64."""
    meta = {"evaluation": candidate.first.id, "fitness": (candidate.final or candidate).mean}
    content = loss_content(space.decode(candidate.genome), meta)
    return base64.b64encode(json.dumps(content, indent=1).encode()).decode()


def _classes(
    evaluations: Sequence[Evaluation],
    settings: Mapping[str, Any],
    best: Candidate | None,
    confirmed: Verdict | None,
    names: Names,
) -> tables.Table | None:
    """Of the start and of what was found, in trainings that can be compared."""
    if confirmed is not None and confirmed.gain is not None:
        pair = {names[tuple(confirmed.start)]: confirmed.of_start}
        pair[names[tuple(confirmed.challenger)]] = confirmed.of_challenger
        return tables.class_table(pair, "means of the confirming trainings")
    if best is None:
        return None
    found = {names[tuple(best.genome)]: [e for e in (best.evaluations or best.final.evaluations) if e.counts]}
    if best.evaluations and settings.get("initial"):
        start = starting_loss(settings["initial"], evaluations)
        proxies = [e for e in evaluations if e.genome == start and e.counts and e.stage in PROXIES]
        if proxies and start != best.genome:
            found = {names[tuple(start)]: proxies, **found}
    return tables.class_table(found, "means of the proxies" if best.evaluations else "means of the final trainings")


def _by_name(starts: Names) -> dict[str, tuple[float, ...]]:
    return {name: genome for genome, name in starts.items()}


def _importance(evaluations: Sequence[Evaluation], space: SearchSpace) -> dict[str, Any]:
    """Lines, and by their captions the shares with the length of their bars; lines alone where nothing can be said."""
    try:
        found = importance(evaluations, space)
    except UserError as error:
        return {"lines": [f"{str(error)[0].upper()}{str(error)[1:]}."], "tables": {}}
    if found is None:
        return {"lines": [f"Which genes matter can be told from {LEAST} losses of different fitness on."], "tables": {}}
    explained = f"{100 * max(found.explained, 0):.0f} %"
    lines = [
        f"A random forest that has seen two thirds of the {found.losses} losses explains {explained} of the "
        "differences between the others. The importance of a gene or function is how much of that (as a part of 1) is "
        "lost when its values are shuffled among them: what matters where the search has looked, and not in the whole "
        "space."
    ]
    if found.explained < LITTLE:
        lines.append("That is next to nothing: so far chance and what the genes do cannot be told apart.")
        return {"lines": lines, "tables": {}}
    captions = {
        "Importance of functions": found.functions,
        "Importance of genes, the highest": found.genes[:MOST_GENES],
    }
    most = max(share.lost for shares in captions.values() for share in shares)
    return {
        "lines": lines,
        "tables": {
            caption: [(share, 100 * max(share.lost, 0) / most if most > 0 else 0) for share in shares]
            for caption, shares in captions.items()
        },
    }


def _setting(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return shlex.join(value)
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and len(text) >= LONG_SETTING:
        return "\n".join(f"{key}: {json.dumps(v, ensure_ascii=False)}" for key, v in value.items())
    return text
