"""TensorBoard's events of a search: curves of its generations, a point a training, the genes of every loss."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from .evolution import GenerationEnd
from .names import numbered
from .store import ENQUEUED, FAILURES, FINISHED, PROXIES, SEARCH, Evaluation

logger = logging.getLogger("paramap_d2.search")

LOSSES = "losses"
"""Folder of one run for each finished proxy, which HPARAMS shows with its genes."""


class Curves:
    """Events for TensorBoard. A disk that is full or a folder that is gone costs the curves alone.

    Written at once, where TensorBoard's own writer has a thread that dies of it with a traceback.

    Args:
        folder: becomes a run of TensorBoard's, with runs in it.
        metric: the fitness's name.
        genes: their names.
        names: of losses, by genome: see :func:`paramap_d2.search.names.loss_names`. The others are called by numbers.

    Attributes:
        last: id of the last evaluation that was told.
    """

    def __init__(
        self,
        folder: Path,
        metric: str = "AP",
        genes: Sequence[str] = (),
        names: Mapping[tuple[float, ...], str] | None = None,
    ):
        self._folder, self._metric, self._genes = folder, metric, genes
        self._names = dict(names or {})
        self._told: Counter[str] = Counter()
        self._centres = 0
        self._file: BinaryIO | None = None
        self.last = 0
        with self._guarded():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events.*"):  # a resumed search tells all of it again
                old.unlink()
            shutil.rmtree(folder / LOSSES, ignore_errors=True)
            self._file = _events(folder)

    def add(self, end: GenerationEnd) -> None:
        """Tell of a generation."""
        fitnesses = [e.fitness for e in end.evaluations if e.status == FINISHED]
        values = {"generation/failures": float(sum(e.status in FAILURES for e in end.evaluations))}
        if fitnesses:
            values |= {"generation/mean": statistics.fmean(fitnesses), "generation/best": max(fitnesses)}
        if end.best is not None:
            values["best"] = end.best.mean
        self._tell(time.time(), end.number, values)

    def follow(self, evaluations: Sequence[Evaluation]) -> None:
        """Tell of evaluations that ended since the last ones. Of every proxy its figures, at its number, and if it was
        trained to its end its genes too; of what follows the search the figures by the loss, one seed after the other.
        Failures have no figures."""
        for e in evaluations:
            self.last = e.id
            if tuple(e.genome) not in self._names:
                self._centres += e.stage not in PROXIES
                called = str(e.id) if e.stage in PROXIES else numbered("centre", self._centres)
                self._names[tuple(e.genome)] = called
            name = self._names[tuple(e.genome)]
            if e.status != FINISHED:
                continue
            figures = {self._metric: e.fitness}
            if "bbox/AP50" in e.metrics:
                figures["AP50"] = e.metrics["bbox/AP50"]
            ended = e.started + e.seconds
            figures["seconds"] = e.seconds
            if e.stage in PROXIES:
                self._tell(ended, e.id, {f"proxy/{figure}": value for figure, value in figures.items()})
            else:
                step = self._told[f"{e.stage} {name}"]
                self._told[f"{e.stage} {name}"] += 1
                self._tell(ended, step, {f"{e.stage}/{figure}/{name}": value for figure, value in figures.items()})
            if e.stage in (SEARCH, ENQUEUED):
                figures.pop("seconds")
                self._loss(e, ended, {f"loss/{figure}": value for figure, value in figures.items()})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _tell(self, when: float, step: int, values: Mapping[str, float]) -> None:
        if self._file is not None:
            with self._guarded():
                _write(self._file, _scalars(when, step, values))

    def _loss(self, e: Evaluation, when: float, figures: dict[str, float]) -> None:
        """A run of its own, whose hyperparameters are the genes."""
        if self._file is None or not self._genes:
            return
        from torch.utils.tensorboard.summary import hparams

        genes = dict(zip(self._genes, e.genome, strict=True))
        with self._guarded():
            folder = self._folder / LOSSES / f"{e.id:05d}"
            folder.mkdir(parents=True)
            with _events(folder) as file:
                for summary in hparams({"generation": e.generation, **genes}, figures):
                    _write(file, Event(wall_time=when, summary=summary))
                _write(file, _scalars(when, 0, figures))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            self._file = None
            logger.warning(f"TensorBoard's events cannot be written and are left out from here on: {error}")


def _events(folder: Path) -> BinaryIO:
    """A new file of events."""
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
    file = open(folder / name, "wb", buffering=0)  # noqa: SIM115  closed by whom it is given to
    _write(file, Event(wall_time=time.time(), file_version="brain.Event:2"))
    return file


def _scalars(when: float, step: int, values: Mapping[str, float]) -> Event:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    return Event(wall_time=when, step=step, summary=summary)


def _write(file: BinaryIO, event: Event) -> None:
    RecordWriter(file).write(event.SerializeToString())
