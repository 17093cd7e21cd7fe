"""What a search shows in a terminal while it runs: lines and a bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Row
from rich.text import Text

from .status import duration
from .store import CONFIRM, FINAL, RUN_OFF
from .trainings import SearchProgress

logger = logging.getLogger("paramap_d2.search")


LATER = {FINAL: "final trainings", RUN_OFF: "run-off", CONFIRM: "confirming trainings"}
"""What a search is at after its generations."""


class _TimeLeft(ProgressColumn):
    """rich's own forgets what is older than half a minute, and a proxy may take hours."""

    def render(self, row: Row) -> Text:
        ready = row.fields["ready"]
        return Text("—" if ready is None else duration(max(0.0, ready - time.monotonic())))


class ProgressBar:
    """Shows nothing where the console is no terminal. A context manager.

    Args:
        metric: the fitness's name.
        total: evaluations that are known to come.
    """

    def __init__(self, console: Console, metric: str, total: int):
        self._bar = Progress(
            TextColumn("{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            _TimeLeft(),
            console=console,
            disable=not console.is_terminal,
        )
        self._row = self._bar.add_task("search", total=total, stage="generation 0", best="—", ready=None)
        self._metric = metric
        self._begin = time.monotonic()

    def show(self, now: SearchProgress) -> None:
        stage = LATER.get(now.stage, f"generation {now.generation}")
        best = "—" if now.best is None else f"{self._metric} {now.best:.2f}"
        ready = ready_at(self._begin, time.monotonic(), now.trained, now.left)
        self._bar.update(self._row, completed=now.done, total=now.total, stage=stage, best=best, ready=ready)

    def __enter__(self) -> ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.__exit__(*raised)


def ready_at(begin: float, now: float, trained: float, left: float) -> float | None:
    """When the rest is done at the pace so far, on the clock of ``begin`` and ``now``; None before the first is."""
    return now + (now - begin) / trained * left if trained else None


@contextmanager
def lines(folder: Path, console: Console) -> Iterator[None]:
    """What is logged, to the terminal, above the progress bar, and with its time to the folder's log. Errors, which
    are raised too, are the command's to print."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno < logging.ERROR:
                console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)

    file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handlers = [file, Lines()]
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.level, logger.propagate = before
