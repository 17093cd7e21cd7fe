"""How far a search is, from what its store holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .candidates import fitness_text, proxies_asked_for, ranked_candidates
from .confirmation import verdict, verdict_text
from .space import SearchSpace
from .store import (
    CONFIRM,
    ENQUEUED,
    FAILURES,
    FINISHED,
    INTERRUPTED,
    LAST,
    PROXIES,
    REPEAT,
    SEARCH,
    STOPPED,
    SUPERSEDED,
    Evaluation,
    Store,
    StoreError,
)

STORE = "search.db"
"""The store's name in a search's output folder."""


@dataclass(frozen=True)
class Progress:
    """How far a search is."""

    done: int  # trainings that ended, with all their tries
    planned: int | None  # trainings that are known to come, in all; None where the settings do not say
    generation: int | None  # the latest with an evaluation
    finished: int
    stopped: int  # ended early as hopeless
    saved: float  # 0 … 1: of the iterations of all proxies, those spared by ending hopeless ones
    failures: dict[str, int]  # by status, those that occurred
    interrupted: int
    compute_seconds: float  # of all workers together
    wall_seconds: float  # from the first start to the last end, pauses apart
    utilisation: float | None  # 0 … 1: compute of what the workers could have done in the wall time
    seconds_left: float | None  # at the rate so far


def progress(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> Progress:
    """How far the search is, from its evaluations and settings (those it lacks are left open)."""
    statuses = Counter(e.status for e in evaluations)
    trainings = Counter(e.stage for e in evaluations if e.status != INTERRUPTED and e.attempt == 1)
    done, planned = trainings.total(), settings.get("planned")
    proxy = next((e.planned for e in evaluations if e.stage == SEARCH and e.planned), None)
    lengths = sum(_length(e, proxy) for e in evaluations if e.status != INTERRUPTED and e.attempt == 1)
    left = 0.0
    if planned is not None:
        planned = max(all_planned(planned, settings.get("evaluations"), trainings), done)
        later = _later(evaluations, settings)
        left = planned - done + sum(count * (length / proxy if length and proxy else 1) for count, length in later)
        planned += sum(count for count, _ in later)
    compute = sum(e.seconds for e in evaluations)
    wall = _wall_seconds(evaluations)
    workers = settings.get("workers") or len({e.worker for e in evaluations})
    return Progress(
        done=done,
        planned=planned,
        generation=max((e.generation for e in evaluations), default=None),
        finished=statuses[FINISHED],
        stopped=statuses[STOPPED],
        saved=_saved(evaluations),
        failures={status: statuses[status] for status in FAILURES if statuses[status]},
        interrupted=statuses[INTERRUPTED],
        compute_seconds=compute,
        wall_seconds=wall,
        utilisation=min(compute / (wall * workers), 1.0) if wall > 0 else None,
        seconds_left=wall / lengths * left if planned is not None and lengths and wall > 0 else None,
    )


def _length(e: Evaluation, proxy: int | None) -> float:
    """Of a training, in lengths of a proxy; a proxy that was ended early counts whole, as those to come do."""
    return e.planned / proxy if e.stage in LAST and e.planned and proxy else 1.0


def _later(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> list[tuple[int, int | None]]:
    """Final and confirming trainings that are still to come: how many of how many iterations."""
    asked_for = proxies_asked_for(evaluations)
    named = settings.get("confirmation")
    if settings.get("decided") != asked_for:  # the finals are not over
        made = Counter(e.stage for e in evaluations if e.round == asked_for and e.attempt == 1 and e.stage in LAST)
        ahead = settings.get("later", {})
        return [(max(0, count - made[stage]), iterations) for stage, (count, iterations) in ahead.items()]
    if not named or named["challenger"] == named["start"]:
        return []
    made = {
        (tuple(e.genome), e.seed)
        for e in evaluations
        if e.stage == CONFIRM
        and e.genome in (named["challenger"], named["start"])
        and (e.planned or None) == named["iterations"]
        and e.status != INTERRUPTED
        and e.round != SUPERSEDED
    }
    had = Counter(genome for genome, _ in made)
    left = [max(0, named["seeds"] - had[tuple(named[which])]) for which in ("challenger", "start")]
    return [(sum(left), named["iterations"])]


def all_planned(proxies: int, limit: int | None, beside: Mapping[str, int]) -> int:
    """Trainings of a search.

    Args:
        proxies: that the algorithm asks for.
        limit: of proxies, with repeats and enqueued ones; None for no limit.
        beside: by stage, those that are known to come or were made beside what the algorithm asks for.
    """
    proxies += sum(beside.get(stage, 0) for stage in (ENQUEUED, REPEAT))
    proxies = proxies if limit is None else min(proxies, limit)
    return proxies + sum(beside.get(stage, 0) for stage in LAST)


def _saved(evaluations: Sequence[Evaluation]) -> float:
    """Share of the proxies' iterations."""
    proxies = [e for e in evaluations if e.stage in PROXIES]
    stopped = sum(e.planned - e.iterations for e in proxies if e.status == STOPPED)
    whole = sum(e.iterations for e in proxies if e.status in (FINISHED, STOPPED)) + stopped
    return stopped / whole if whole else 0.0


def _wall_seconds(evaluations: Sequence[Evaluation]) -> float:
    """From the first start to the last end. A gap in which nothing ran, longer than the longest evaluation, is a
    pause between a stop of the search and its resumption, and does not count."""
    spans = sorted((e.started, e.started + e.seconds) for e in evaluations if e.started > 0)
    if not spans:
        return 0.0
    longest = max(end - start for start, end in spans)
    wall = 0.0
    begun, until = spans[0]
    for start, end in spans[1:]:
        if start - until > longest:
            wall += until - begun
            begun = start
        until = max(until, end)
    return wall + until - begun


def read_search(output: str | os.PathLike[str]) -> tuple[list[Evaluation], dict[str, Any]]:
    """Evaluations and settings of the search in a folder, which may be running.

    Raises:
        StoreError: there is none, or its store cannot be read.
    """
    with Store(Path(output) / STORE, readonly=True) as store:
        return store.evaluations(), store.settings()


def searched_space(output: str | os.PathLike[str], settings: Mapping[str, Any]) -> SearchSpace:
    """What the genomes of the search in a folder stand for.

    Raises:
        StoreError: its settings were never written: it was ended as it began.
    """
    if "space" not in settings:
        raise StoreError(f"{output} has not begun to search: there is nothing of it yet")
    return SearchSpace.described(settings["space"])


def duration(seconds: float) -> str:
    """Such as ``42 s``, ``7 min``, ``3 h 05 min``, ``2 d 04 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def status_text(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> str:
    """Progress, best loss and failures as lines for a terminal."""
    now = progress(evaluations, settings)
    of = "" if now.planned is None else f" of {now.planned} ({now.done / now.planned:.0%})"
    lines = [f"evaluations  {now.done}{of}: {now.finished} finished, {now.done - now.finished - now.stopped} failed"]
    if now.stopped:
        lines[0] += f", {now.stopped} stopped early ({now.saved:.0%} of the iterations saved)"
    if now.interrupted:
        lines[0] += f"; {now.interrupted} interrupted"
    if now.generation is not None:
        planned = settings.get("generations")
        lines.append(f"generation   {now.generation}" + (f", the last will be {planned - 1}" if planned else ""))
    metric = settings.get("metric", "AP")
    ranking = ranked_candidates(evaluations)
    if ranking:
        best = ranking[0].first
        lines.append(
            f"best so far  {metric} {fitness_text(ranking[0])}, evaluation {best.id}, generation {best.generation}"
        )
    else:
        lines.append("best so far  none: no evaluation has finished")
    if confirmed := verdict(evaluations, settings):
        lines.append(f"confirmed    {verdict_text(confirmed, metric)}")
    if evaluations:
        spent = f"compute      {duration(now.compute_seconds)}"
        if now.utilisation is not None:
            spent += f" in {duration(now.wall_seconds)}: workers {now.utilisation:.0%} busy"
        lines.append(spent)
    if now.seconds_left:
        lines.append(f"time left    about {duration(now.seconds_left)}")
    reasons = Counter((e.status, e.error) for e in evaluations if e.status in FAILURES)
    for (status, error), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"{status:<12} {count} × {error or 'no reason given'}")
    return "\n".join(lines)
