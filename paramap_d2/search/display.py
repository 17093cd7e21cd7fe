"""What a search shows while it runs: lines, a bar, TensorBoard's curves."""

from __future__ import annotations

import logging
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Row
from rich.text import Text
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from .evolution import GenerationEnd
from .status import duration
from .store import FAILURES, FINISHED
from .trainings import SearchProgress

logger = logging.getLogger("paramap_d2.search")


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
        stage = "last trainings" if now.generation is None else f"generation {now.generation}"
        best = "—" if now.best is None else f"{self._metric} {now.best:.2f}"
        ready = ready_at(self._begin, time.monotonic(), now.made, now.total - now.done)
        self._bar.update(self._row, completed=now.done, total=now.total, stage=stage, best=best, ready=ready)

    def __enter__(self) -> ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.__exit__(*raised)


def ready_at(begin: float, now: float, made: int, left: int) -> float | None:
    """When the rest is done at the pace so far, on the clock of ``begin`` and ``now``; None before the first is."""
    return now + (now - begin) / made * left if made else None


class Curves:
    """TensorBoard's events of a search. A disk that is full or a folder that is gone costs the curves alone.

    Written at once, where TensorBoard's own writer has a thread that dies of it with a traceback.
    """

    def __init__(self, folder: Path):
        self._file = None
        with self._guarded():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events.*"):  # a resumed search tells its generations again
                old.unlink()
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115  closed by close()
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, end: GenerationEnd) -> None:
        if self._file is None:
            return
        fitnesses = [e.fitness for e in end.evaluations if e.status == FINISHED]
        values = {"generation/failures": float(sum(e.status in FAILURES for e in end.evaluations))}
        if fitnesses:
            values |= {"generation/mean": statistics.fmean(fitnesses), "generation/best": max(fitnesses)}
        if end.best is not None:
            values["best"] = end.best.mean
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        with self._guarded():
            self._write(Event(wall_time=time.time(), step=end.number, summary=summary))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, event: Event) -> None:
        RecordWriter(self._file).write(event.SerializeToString())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            self._file = None
            logger.warning(f"TensorBoard's events cannot be written and are left out from here on: {error}")


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
