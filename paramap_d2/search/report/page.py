"""The report of a search: one HTML page that needs nothing beside it, made at any moment."""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from paramap_d2.files import write_whole
from paramap_d2.losses import HeadLoss
from paramap_d2.losses.loss_file import loss_content
from paramap_d2.search.candidates import Candidate, fitness_text, noise, ranked_candidates
from paramap_d2.search.commands import training_command
from paramap_d2.search.confirmation import handed_over, signed, verdict, verdict_text
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.status import duration, progress
from paramap_d2.search.store import FAILURES, INTERRUPTED, Evaluation

from . import drawing, figures

BEST = 10
"""Rows of the table of losses."""

MOST_FAILURES = 50
"""Failures told in full, the latest."""

LONG_SETTING = 200
"""Letters from which a setting is folded away."""

OTHER_METRICS = ("AP", "AP50", "AP75")
"""Shown beside the metric that was searched for, where the evaluations have them."""


def write_report(
    evaluations: Sequence[Evaluation], space: SearchSpace, settings: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Write report.html, whole or not at all.

    Args:
        evaluations: those that have ended so far, in that order; none is fine.
        space: what their genomes stand for.
        settings: what the search was started with. Used where there: ``config_file``, ``metric``, ``generations``,
            ``population``, ``elite``, ``workers``, ``opts``; all are shown.
        path: of the page. ``best.json`` is taken to be beside it.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, report_html(evaluations, space, settings, Path(path).parent).encode())


def report_html(
    evaluations: Sequence[Evaluation], space: SearchSpace, settings: Mapping[str, Any], folder: Path
) -> str:
    """The page, for a search whose output folder is ``folder``; see :func:`write_report`."""
    metric = settings.get("metric", "AP")
    ranking = ranked_candidates(evaluations)
    best, confirmed = handed_over(evaluations, settings), verdict(evaluations, settings)
    failed = [e for e in evaluations if e.status in FAILURES]
    others = [m for m in OTHER_METRICS if m != metric and any(c.mean_metric(m) is not None for c in ranking[:BEST])]
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    return page.render(
        title=Path(settings["config_file"]).stem if settings.get("config_file") else "",
        metric=metric,
        light=drawing.LIGHT.names(),
        dark=drawing.DARK.names(),
        progress=progress(evaluations, settings),
        interrupted=[e for e in evaluations if e.status == INTERRUPTED],
        best=best,
        best_rows=_functions(space.decode(best.genome), space) if best else [],
        command=training_command(settings, folder / "best.json", folder / "retrained") if best else "",
        candidates=[_row(candidate, space, others) for candidate in ranking[:BEST]],
        candidate_count=len(ranking),
        final_iterations=ranking[0].final.first.planned if ranking and ranking[0].final else None,
        confirmed=confirmed,
        verdict=confirmed and verdict_text(confirmed, metric),
        signed=signed,
        noise=noise(ranking, least=3),
        other_metrics=others,
        history=Markup(figures.history_svg(evaluations, metric)),
        compute=Markup(figures.compute_svg(evaluations, metric)),
        spread=Markup(figures.spread_svg(evaluations, metric)),
        genes=[
            (head, Markup(figures.genes_svg(evaluations, space, head, best.genome if best else None)))
            for head in space.heads
            if best and any(name.startswith(f"{head}.") for name in space.gene_names)
        ],
        most_lines=figures.MOST_LINES,
        ramp=[name for name, _ in drawing.LIGHT.names() if name.startswith("ramp")],
        failures=failed[: -MOST_FAILURES - 1 : -1],
        failure_count=len(failed),
        settings={key: _setting(value) for key, value in settings.items()},
        long_setting=LONG_SETTING,
        duration=duration,
        fitness_text=fitness_text,
    )


def _functions(losses: Mapping[str, HeadLoss], space: SearchSpace) -> list[dict[str, Any]]:
    """A row of panels for each head."""
    return [
        {
            "head": head,
            "grad_scale": loss.grad_scale,
            "fixed": head in space.fixed,
            "panels": [
                Markup(figures.function_svg(name, function, f"{head}-{name}"))
                for name, function in loss.functions.items()
            ],
        }
        for head, loss in losses.items()
    ]


def _row(candidate: Candidate, space: SearchSpace, others: Sequence[str]) -> dict[str, Any]:
    losses = space.decode(candidate.genome)
    first = candidate.first
    content = loss_content(losses, {"evaluation": first.id, "fitness": (candidate.final or candidate).mean})
    return {
        "number": first.id,
        "generation": first.generation,
        "mean": candidate.mean if candidate.evaluations else None,
        "seeds": len(candidate.by_seed),
        "final": candidate.final,
        "others": [candidate.mean_metric(name) for name in others],
        "grad_scales": ", ".join(f"{losses[head].grad_scale:.3g}" for head in space.heads),
        "file": base64.b64encode(json.dumps(content, indent=1).encode()).decode(),
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
