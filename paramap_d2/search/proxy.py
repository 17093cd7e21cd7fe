"""The proxy task: a short Detectron2 training whose AP is a genome's fitness."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .proxy_config import ProxyConfig
from .space import Genome, SearchSpace
from .store import FINISHED

STUCK_MARGIN, STUCK_ITERATIONS = 1e-6, 50
"""The paper's rule: a loss within this distance of 1 for more than this many iterations learns nothing. A detector with
several losses is stuck where their sum stays at a whole number of them."""


@dataclass(frozen=True)
class Task:
    """One evaluation to make. Plain values only, so that it can be sent to any process."""

    generation: int
    position: int
    genome: Genome
    seed: int


@dataclass
class Outcome:
    """What came of a task; its fields are those of :class:`paramap_d2.search.store.Evaluation`."""

    status: str
    fitness: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    iterations: int = 0
    error: str = ""
    log: str = ""
    started: float = 0.0
    worker: int = 0


class StuckError(ArithmeticError):
    """The loss stays at 1."""


@dataclass(frozen=True)
class Proxy:
    """Evaluates tasks: trains the config with a genome's loss from the task's seed, and evaluates it.

    Calling it never raises for what a training can do wrong; the outcome says what happened. It imports Detectron2
    and torch only when called, and is sent to worker processes as it is.

    Args:
        config: see :func:`paramap_d2.search.proxy_config.read_proxy_config`.
        space: how genomes decode.
        metric: figure of the evaluator that is the fitness, such as ``AP`` or ``AP50`` (percent, task ``bbox``).
        folder: where each evaluation gets a folder of its own, for its loss file and log.
    """

    config: ProxyConfig
    space: SearchSpace
    metric: str
    folder: str

    def __call__(self, task: Task) -> Outcome:
        folder = Path(self.folder) / f"g{task.generation:03d}_{task.position:03d}_s{task.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        outcome = Outcome("failed", started=time.time())
        begin = time.perf_counter()
        log_path = folder / "log.txt"
        with _logging_to(log_path):
            try:
                self._evaluate(task, folder, outcome)
            except (FloatingPointError, StuckError) as error:
                outcome.status, outcome.error = "diverged", _first_line(error)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                outcome.status = "failed"
                memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
                outcome.error = ("out of memory: " if memory else "") + _first_line(error)
        outcome.seconds = time.perf_counter() - begin
        if outcome.status != FINISHED:
            outcome.fitness = 0.0
            outcome.log = tail(log_path)
        return outcome

    def _evaluate(self, task: Task, folder: Path, outcome: Outcome) -> None:
        from paramap_d2.losses import save_loss

        loss_file = folder / "loss.json"
        save_loss(loss_file, self.space.decode(task.genome), {"genome": task.genome, "seed": task.seed})
        watch = _loss_watch()
        try:
            results = self.config.train(loss_file, folder, task.seed, watch)
        finally:
            outcome.iterations = watch.iterations
        figures = {f"{kind}/{name}": float(v) for kind, part in results.items() for name, v in part.items()}
        outcome.metrics = {name: v for name, v in figures.items() if math.isfinite(v)}
        fitness = figures.get(f"bbox/{self.metric}", math.nan)
        if math.isfinite(fitness):
            outcome.status, outcome.fitness = FINISHED, fitness
        elif f"bbox/{self.metric}" in figures or not figures:
            outcome.status, outcome.error = "no detections", "the trained detector finds nothing"
        else:
            raise ValueError(f"the evaluator gives no {self.metric}; it gives {', '.join(figures)}")


def _loss_watch() -> Any:
    """The hook of a proxy training; its class is made late because it needs Detectron2."""
    from detectron2.engine import HookBase

    class LossWatch(HookBase):
        """Ends a training whose losses stay at 1, counts its iterations and leaves the loss curve in the log."""

        def __init__(self) -> None:
            self.stuck = self.iterations = 0

        def after_step(self) -> None:
            loss = self.trainer.storage.latest()["total_loss"][0]
            self.stuck = self.stuck + 1 if loss > 0.5 and abs(loss - round(loss)) <= STUCK_MARGIN else 0
            if self.stuck > STUCK_ITERATIONS:
                raise StuckError(f"the loss stayed at {loss:.0f} for more than {STUCK_ITERATIONS} iterations")
            if self.trainer.iter % 10 == 0:
                logging.getLogger("paramap_d2").info("iteration %d loss %.4f", self.trainer.iter, loss)
            self.iterations = self.trainer.iter + 1

    return LossWatch()


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Sends everything that is logged or printed meanwhile to a file, and nothing to the terminal."""
    root = logging.getLogger()
    # Loggers that do not hand on (Detectron2's, once set up) would pass the root logger by.
    loggers = [root, *(logging.getLogger(name) for name in ("detectron2", "fvcore", "paramap_d2"))]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        for logger in loggers:
            logger.handlers, logger.propagate = ([handler] if logger is root else []), True
            logger.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for logger, handlers, propagate, level in before:
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)


def tail(path: str | os.PathLike[str], size: int = 4000) -> str:
    """The last characters of a text file, from the start of a line; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(0, io.SEEK_END)
            cut = file.tell() > size
            file.seek(-min(size, file.tell()), io.SEEK_END)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if cut else text


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
