"""The report of a search while it runs: the page of :mod:`.page`, and above it what goes on now."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paramap_d2.search.candidates import best_candidate, fitness_text
from paramap_d2.search.life import TrainingNow, life_text, next_commands, read_life, training_name
from paramap_d2.search.names import loss_names
from paramap_d2.search.status import STORE, duration, progress, read_search, searched_space
from paramap_d2.search.store import FAILURES, Evaluation

from .page import report_html, template

LATEST = 5
"""Failures told beside what runs; the report has all."""

REST = 20
"""Times as long as drawing the report took, it is not drawn again: the search has the processors."""


class LivePage:
    """The page of the search in a folder, which is only read; for any number of threads.

    Raises:
        StoreError: no search is there, or its store cannot be read; so do the methods.
    """

    def __init__(self, output: str | os.PathLike[str]):
        self._folder = Path(output)
        self._lock = threading.Lock()
        self._stamp: tuple[Any, ...] | None = None
        self._report, self._reported = "", None  # of which stamp
        self._drawn, self._took = 0.0, 0.0
        self._read()

    def page(self) -> str:
        """The whole page, which keeps itself fresh by asking for :meth:`now` and, where the store has changed and the
        report is due, for itself."""
        with self._lock:
            self._read()
            if self._due():
                begin = time.monotonic()
                space = searched_space(self._folder, self._settings)
                self._report = report_html(self._evaluations, space, self._settings, self._folder)
                self._reported, self._drawn = self._stamp, time.monotonic()
                self._took = self._drawn - begin
            head, script = (template(f"live_{part}.html.jinja") for part in ("head", "script"))
            now = f'<p id="connection" role="status"></p>\n{self._now()}'
            page = self._report.replace("</head>", f"{head.render()}</head>", 1)
            page = re.sub(
                r"</h1>|<main[^>]*>(?!.*</h1>)", lambda found: f"{found[0]}\n{now}", page, count=1, flags=re.S
            )
            return page.replace("</body>", f"{script.render()}</body>", 1)

    def now(self) -> str:
        """The part that tells what goes on."""
        with self._lock:
            self._read()
            return self._now()

    def _read(self) -> None:
        stamp = _stamp(self._folder / STORE)
        if stamp != self._stamp or stamp is None:
            self._evaluations, self._settings = read_search(self._folder)
            self._stamp = stamp

    def _due(self) -> bool:
        """Whether the report is to be drawn anew."""
        rested = time.monotonic() - self._drawn >= REST * self._took
        return not self._report or (self._reported != self._stamp and rested)

    def _now(self) -> str:
        evaluations, settings, now = self._evaluations, self._settings, time.time()
        life = read_life(self._folder, evaluations, settings)
        names, best = loss_names(settings), best_candidate(evaluations)
        failed = [e for e in evaluations if e.status in FAILURES][: -LATEST - 1 : -1]
        return template("live.html.jinja").render(
            report="-".join(map(str, (self._stamp if self._due() else self._reported) or ())),
            life=life,
            detail=life_text(life, now).removeprefix(life.state),
            metric=settings.get("metric", "AP"),
            progress=progress(evaluations, settings),
            best=best and fitness_text(best),
            trainings=[_training_row(t, names, now) for t in sorted(life.trainings, key=lambda t: t.worker)],
            failures=[_failure_row(e, names, now) for e in failed],
            commands=next_commands(life, self._folder, settings),
            duration=duration,
        )


def _stamp(path: Path) -> tuple[Any, ...] | None:
    """Changes with the store; None where it is not there."""
    found: list[Any] = []
    for file in (path, Path(f"{path}-wal")):
        try:
            stat = file.stat()
        except OSError:
            if file == path:
                return None
            continue
        found += [stat.st_size, stat.st_mtime_ns]
    return tuple(found)


def _training_row(training: TrainingNow, names: dict[tuple[float, ...], str], now: float) -> dict[str, Any]:
    what = training_name(training, names.get(tuple(training.genome), ""))
    return {**asdict(training), "what": what, "time": duration(max(0.0, now - training.started))}


def _failure_row(e: Evaluation, names: dict[tuple[float, ...], str], now: float) -> dict[str, Any]:
    name = names.get(tuple(e.genome))
    return {
        "number": e.id,
        "what": f"generation {e.generation}, loss {e.position}" + (f" ({name})" if name else ""),
        "status": e.status,
        "reason": e.error or "no reason given",
        "ago": duration(max(0.0, now - e.started - e.seconds)) if e.started else "some time",
    }
