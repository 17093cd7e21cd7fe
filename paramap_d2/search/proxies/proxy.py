"""The proxy task: a short Detectron2 training whose AP is a genome's fitness."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from paramap_d2.search.space import Genome, SearchSpace
from paramap_d2.search.stopping import Checkpoint
from paramap_d2.search.store import (
    DIVERGED,
    FAILED,
    FINISHED,
    LAST,
    LOSS,
    MEMORY,
    NO_DETECTIONS,
    OTHER,
    SEARCH,
    STOPPED,
)

from .checkpoint import Checkpoint as TrainingState
from .checkpoint import keep_weights
from .config import ProxyConfig, Results
from .failures import cause_of, first_line
from .progress import TrainingProgress
from .versions import machine, versions

if TYPE_CHECKING:
    from detectron2.engine import HookBase, TrainerBase
    from torch.nn import Module

STUCK_MARGIN, STUCK_ITERATIONS = 1e-6, 50
"""The paper's rule: a loss within this distance of 1 for more than this many iterations learns nothing. A detector with
several losses is stuck where their sum stays at a whole number of them."""


@dataclass(frozen=True)
class Task:
    """One evaluation to make. Plain values only, so that it can be sent to any process.

    Args:
        generation, position: of the genome.
        stage: see :class:`paramap_d2.search.store.Evaluation`.
        iterations: of the training, instead of the proxy's own.
        checkpoints: see :func:`paramap_d2.search.stopping.checkpoints`.
        attempt: at it, from 1.
    """

    generation: int
    position: int
    genome: Genome
    seed: int
    stage: str = SEARCH
    iterations: int | None = None
    checkpoints: Sequence[Checkpoint] = ()
    attempt: int = 1

    @property
    def name(self) -> str:
        """Of its folder; the same for all attempts. A final or confirming training may be of a loss that no generation
        asked for, and then has no place of its own: its genes tell it apart."""
        name = f"g{self.generation:03d}_{self.position:03d}_s{self.seed}"
        if self.stage not in LAST:
            return name
        genes = hashlib.sha256(json.dumps(list(self.genome)).encode()).hexdigest()[:6]
        return f"{name}_{self.iterations or 'proxy'}_{genes}"


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
    planned: int = 0
    curve: list[list[float]] = field(default_factory=list)
    cause: str = ""
    versions: dict[str, str] = field(default_factory=dict)


class StuckError(ArithmeticError):
    """The loss stays at 1."""


class HopelessError(Exception):
    """The fitness on the way is below the checkpoint's threshold."""


@dataclass(frozen=True)
class Proxy:
    """Evaluates tasks: trains the config with a genome's loss from the task's seed, and evaluates it. In a distributed
    process it is one rank of a training (see :class:`paramap_d2.search.proxies.distributed.DistributedProxy`).

    Calling it never raises for what a training can do wrong; the outcome says what happened. It imports Detectron2
    and torch only when called, and is sent to worker processes as it is.

    Args:
        config: see :func:`paramap_d2.search.proxies.config.read_proxy_config`.
        space: how genomes decode.
        metric: figure of the evaluator that is the fitness, such as ``AP`` or ``AP50`` (percent, task ``bbox``).
        folder: where each evaluation gets a folder of its own, for its loss file and log.
        checkpoint_every: iterations after which a training's state is kept, for the next try to go on from; None for
            none.
        running: folder for a file of each training under way that tells how far it is; None for none.
        finalists: folder for the weights of final and confirming trainings; None to keep none.
    """

    config: ProxyConfig
    space: SearchSpace
    metric: str
    folder: str
    checkpoint_every: int | None = None
    running: str | None = None
    finalists: str | None = None

    def __call__(self, task: Task) -> Outcome:
        from detectron2.utils import comm

        folder = self.folder_of(task)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = Outcome(FAILED, started=time.time(), versions=versions())
        begin = time.perf_counter()
        log_path, hooks = self.log(task), []
        watched = self.running and comm.is_main_process()
        progress = TrainingProgress(Path(self.running) / f"{task.name}.json" if watched else None)
        with _logging_to(log_path):
            try:
                self._evaluate(task, folder, outcome, hooks, progress)
            except HopelessError as error:
                outcome.status, outcome.error = STOPPED, str(error)
            except (FloatingPointError, StuckError) as error:
                outcome.status, outcome.error = DIVERGED, first_line(error)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                self._failed(outcome, error, hooks)
        progress.remove()
        if comm.is_main_process():  # predictions, where the config's own evaluator keeps them: of a whole search, much
            shutil.rmtree(folder / "inference", ignore_errors=True)
        outcome.seconds = time.perf_counter() - begin
        outcome.versions = {**outcome.versions, "machine": machine()}
        checkpoint = self._checkpoint(task)
        if checkpoint is not None and (outcome.status != FAILED or outcome.cause == LOSS):
            checkpoint.remove()
        if outcome.status not in (FINISHED, STOPPED):
            outcome.fitness = 0.0
            outcome.log = tail(log_path)
        return outcome

    def _checkpoint(self, task: Task) -> TrainingState | None:
        if self.checkpoint_every is None:
            return None
        what = [task.genome, task.seed, task.iterations, dict(self.config.settings)]
        identity = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return TrainingState(self.folder_of(task) / "checkpoint.pth", self.checkpoint_every, identity)

    def log(self, task: Task) -> Path:
        """Where a task's output goes, each attempt's and each rank's to a file of its own."""
        from detectron2.utils import comm

        attempt = "" if task.attempt == 1 else f"_{task.attempt}"
        rank = "" if comm.is_main_process() else f"_rank{comm.get_rank()}"
        return self.folder_of(task) / f"log{attempt}{rank}.txt"

    def folder_of(self, task: Task) -> Path:
        return Path(self.folder) / task.name

    def _failed(self, outcome: Outcome, error: BaseException, hooks: Sequence[HookBase]) -> None:
        outcome.status, outcome.cause, outcome.error = FAILED, cause_of(error), first_line(error)
        if outcome.cause == MEMORY:
            outcome.error = f"out of memory: {outcome.error}"
        elif outcome.cause == OTHER and any(hook.not_finite() for hook in hooks):
            # What a detector of such weights gives, many a library refuses in words of its own.
            outcome.status, outcome.cause, outcome.error = DIVERGED, "", f"weights are not finite: {outcome.error}"

    def _evaluate(
        self, task: Task, folder: Path, outcome: Outcome, hooks: list[HookBase], progress: TrainingProgress
    ) -> None:
        from detectron2.utils import comm

        from paramap_d2.losses import save_loss

        loss_file = folder / "loss.json"
        save_loss(loss_file, self.space.decode(task.genome), {"genome": task.genome, "seed": task.seed})

        def watch(evaluate: Callable[[], Results]) -> HookBase:
            fitness = lambda: self._fitness(evaluate(), outcome)  # noqa: E731
            hooks.append(_watch(task, outcome, self.metric, fitness, self._checkpoint(task), progress, trained))
            return hooks[-1]

        def trained(model: Module) -> None:
            if self.finalists is not None and comm.is_main_process() and task.stage in LAST:
                try:
                    keep_weights(model, loss_file, Path(self.finalists) / f"{task.stage}_{task.name}.pth")
                except (OSError, RuntimeError):  # a full disk costs the weights, and not the training
                    traceback.print_exc()

        results = self.config.train(loss_file, folder, task.seed, watch, task.iterations)
        fitness = self._fitness(results, outcome)
        if math.isfinite(fitness):
            outcome.status, outcome.fitness = FINISHED, fitness
        elif "bbox/AP" in outcome.metrics:
            raise ValueError(f"the evaluator gives no value of {self.metric}: the test data have nothing of it")
        else:
            outcome.status, outcome.error = NO_DETECTIONS, "the trained detector finds nothing"

    def _fitness(self, results: Results, outcome: Outcome) -> float:
        """The metric in an evaluator's figures, NaN where nothing is detected; the outcome gets all figures."""
        figures = figures_of(results)
        outcome.metrics = {name: v for name, v in figures.items() if math.isfinite(v)}
        if figures and f"bbox/{self.metric}" not in figures:
            raise ValueError(f"the evaluator gives no {self.metric}; it gives {', '.join(figures)}")
        return figures.get(f"bbox/{self.metric}", math.nan)


def figures_of(results: Results) -> dict[str, float]:
    """An evaluator's figures by task and name, such as ``bbox/AP``; what is no number is left out."""
    from detectron2.evaluation.testing import flatten_results_dict

    figures = {}
    for name, value in flatten_results_dict(results).items():
        with contextlib.suppress(TypeError, ValueError):
            figures[name] = float(value)
    return figures


def _watch(
    task: Task,
    outcome: Outcome,
    metric: str,
    fitness: Callable[[], float],
    state: TrainingState | None,
    progress: TrainingProgress,
    trained: Callable[[Module], None],
) -> HookBase:
    """The hook of a proxy training; its class is made late because it needs Detectron2.

    Args:
        outcome: is told the iterations and the curve.
        fitness: evaluates the model as it is.
        progress: where to tell how far it is.
        trained: is given the model after the last iteration.
    """
    from detectron2.engine import HookBase
    from detectron2.utils import comm

    class Watch(HookBase):
        """Ends a training whose losses stay at 1 or that is hopeless, counts its iterations, leaves the loss curve in
        the log and tells how far it is."""

        stuck = 0
        loss: float | None = None

        def tell(self, phase: str) -> None:
            progress.tell(outcome.iterations, outcome.planned, self.loss, outcome.curve, phase)

        def start(self, trainer: TrainerBase, loader_in_process: bool) -> int:
            """The iteration to begin with, where an earlier try left off; the trainer is put there."""
            if state is None:
                return 0
            first, kept = state.load(trainer, loader_in_process)
            if first:
                self.stuck, outcome.curve = kept["stuck"], kept["curve"]
                logging.getLogger("paramap_d2").info("going on from iteration %d", first)
            return first

        def before_train(self) -> None:
            outcome.planned = self.trainer.max_iter
            self.thresholds = {math.ceil(share * outcome.planned): least for share, least in task.checkpoints}
            self.tell("training")

        def after_step(self) -> None:
            if comm.is_main_process():  # which alone is told the losses
                loss, told = self.trainer.storage.latest().get("total_loss", (0.0, -1))
                if told == self.trainer.iter:  # trainers may gather losses now and then
                    self.look_at(loss)
            outcome.iterations = self.trainer.iter + 1
            if outcome.iterations in self.thresholds and outcome.iterations < outcome.planned:
                self.check(self.thresholds[outcome.iterations])
            if state is not None and outcome.iterations % state.every == 0 and outcome.iterations < outcome.planned:
                state.save(self.trainer, {"stuck": self.stuck, "curve": outcome.curve})
            if progress.due():
                self.tell("training")

        def look_at(self, loss: float) -> None:
            self.loss = loss
            self.stuck = self.stuck + 1 if loss > 0.5 and abs(loss - round(loss)) <= STUCK_MARGIN else 0
            if self.stuck > STUCK_ITERATIONS:
                raise StuckError(f"the loss stayed at {loss:.0f} for more than {STUCK_ITERATIONS} iterations")
            if self.trainer.iter % 10 == 0:
                logging.getLogger("paramap_d2").info("iteration %d loss %.4f", self.trainer.iter, loss)

        def after_train(self) -> None:
            if 0 < outcome.iterations == outcome.planned:
                trained(self.trainer.model)
            self.tell("evaluating")

        def not_finite(self) -> bool:
            model = getattr(self.trainer, "model", None)  # none before the training began
            return model is not None and not all(p.isfinite().all() for p in model.parameters())

        def check(self, least: float | None) -> None:
            self.tell("evaluating")
            with unnoticed():
                reached = fitness()
            outcome.fitness = reached if math.isfinite(reached) else 0.0
            outcome.curve.append([outcome.iterations, outcome.fitness])
            if least is not None and outcome.fitness < least:
                raise HopelessError(
                    f"{metric} {outcome.fitness:.2f} after {outcome.iterations} of {outcome.planned} iterations, "
                    f"and {least:.2f} is needed to go on"
                )

    return Watch()


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Puts all random states back: even the resizing of test images draws from them, and the training is to go on as
    if nobody had looked."""
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])


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
