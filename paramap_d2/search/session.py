"""One run of a search from its options: checks, progress, results as they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import portalocker
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from paramap_d2.errors import UserError
from paramap_d2.losses import HeadLoss, head_losses, load_loss

from .evolution import SearchProgress, evolve, generation_line, open_store, write_results
from .executors import Executor, InlineExecutor, ProcessExecutor
from .genetic import GeneticAlgorithm
from .proxy import Proxy
from .proxy_config import ProxyConfig, read_proxy_config
from .space import Genome, SearchSpace
from .store import Evaluation, Store, StoreError, best_evaluation

logger = logging.getLogger("paramap_d2.search")


@dataclass(frozen=True)
class SearchOptions:
    """What a user may say about a search; see ``tools/evolve.py --help``."""

    config_file: str
    output_dir: str
    population: int = 8
    generations: int = 4
    seed: int = 0
    workers: int = 1
    resume: bool = False
    executor: str = "process"
    algorithm: str = "ga"
    mode: str = "separate"
    points: int = 4
    elite: int = 1
    init: Sequence[str] | None = None
    heads: Sequence[str] | None = None
    fixed: str | None = None
    fix_grad_scale: float | None = None
    metric: str = "AP"
    timeout: float | None = None
    opts: Sequence[str] = field(default_factory=list)


def run_search(options: SearchOptions) -> Evaluation | None:
    """Run a search or go on with one; returns its best evaluation, None if every proxy failed.

    Raises:
        UserError: options, config, data or output folder do not fit, before anything is started.
    """
    if options.generations < 1:
        raise UserError(f"generations must be at least 1, not {options.generations}")
    if options.fix_grad_scale is not None and not 0 < options.fix_grad_scale < float("inf"):
        raise UserError(f"fix-grad-scale must be a positive number, not {options.fix_grad_scale:g}")
    folder = Path(options.output_dir)
    config = read_proxy_config(options.config_file, options.opts)
    searched, fixed = _searched_and_fixed(options, config.heads)
    space = SearchSpace(searched, options.points, options.mode, options.fix_grad_scale, fixed)
    initial = _first_individuals(options, config, space)
    algorithm = GeneticAlgorithm(space.genes, options.population, options.seed, initial, options.elite)
    settings = {
        "config": config.settings,
        "space": space.describe(),
        "algorithm": options.algorithm,
        "population": options.population,
        "elite": options.elite,
        "seed": options.seed,
        "metric": options.metric,
        "initial": initial,
    }
    executor = _executor(options)
    with _only_one(folder, options.resume), open_store(folder, settings, options.resume) as store:
        store.write_settings(
            {
                "generations": options.generations,
                "config_file": options.config_file,
                "opts": list(options.opts),
                "loss_keys": config.loss_keys,
                "workers": options.workers,
            }
        )
        proxy = Proxy(config, space, options.metric, str(folder / "evaluations"))
        try:
            return _run(options, folder, space, algorithm, proxy, executor, store)
        finally:
            executor.close()


def _run(
    options: SearchOptions,
    folder: Path,
    space: SearchSpace,
    algorithm: GeneticAlgorithm,
    proxy: Proxy,
    executor: Executor,
    store: Store,
) -> Evaluation | None:
    from torch.utils.tensorboard import SummaryWriter

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("generation {task.fields[generation]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("best {task.fields[best]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    total = options.population + (options.generations - 1) * (options.population - options.elite)
    row = bar.add_task("search", total=total, generation=0, best="—")
    seen = 0  # evaluations of the generations before

    def on_progress(progress: SearchProgress) -> None:
        best = "—" if progress.best is None else f"{options.metric} {progress.best.fitness:.2f}"
        bar.update(row, completed=seen + progress.done, generation=progress.generation, best=best)

    events = folder / "tensorboard"
    for old in events.glob("events.*"):  # a resumed search tells its generations again
        old.unlink()
    writer = SummaryWriter(str(events))

    def on_generation(generation: int, current: list[Evaluation]) -> None:
        nonlocal seen
        seen += len(current)
        everything.extend(current)
        best = best_evaluation(everything)
        logger.info(generation_line(generation, current, best, options.metric))
        fitnesses = [e.fitness for e in current]
        writer.add_scalar("generation/mean", sum(fitnesses) / len(fitnesses), generation)
        writer.add_scalar("generation/best", max(fitnesses), generation)
        writer.add_scalar("generation/failures", sum(e.error != "" for e in current), generation)
        if best is not None:
            writer.add_scalar("best", best.fitness, generation)
        writer.flush()
        write_results(folder, store, space)

    everything: list[Evaluation] = []
    with _logging(folder, console), bar:
        logger.info(
            f"{total} evaluations of {space.genes} genes ({', '.join(space.heads)}), {executor.workers} at a time; "
            f"watch with tensorboard --logdir {folder}"
        )
        try:
            begin = time.monotonic()
            evolve(
                algorithm,
                proxy,
                executor,
                store,
                generations=options.generations,
                seed=options.seed,
                on_progress=on_progress,
                on_generation=on_generation,
            )
        finally:
            writer.close()
            write_results(folder, store, space)
        best = best_evaluation(store.evaluations())
        minutes = (time.monotonic() - begin) / 60
        if best is None:
            logger.info(f"no proxy reached an AP; the reasons are in {folder / 'report.html'}")
        else:
            logger.info(
                f"best {options.metric} {best.fitness:.2f}, after {minutes:.1f} min: {folder / 'best.json'}; "
                f"report: {folder / 'report.html'}"
            )
    return best


def _searched_and_fixed(
    options: SearchOptions, detector: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, HeadLoss]]:
    """Of the detector's heads those that are searched, by default all, and the losses that the others keep."""
    wanted = options.heads or detector
    for head in wanted:
        if head not in detector:
            raise UserError(f"--heads: the config's detector has no head {head!r}; it has {', '.join(detector)}")
    kept = tuple(head for head in detector if head not in wanted)
    if not kept:
        if options.fixed:
            raise UserError(f"--fixed {options.fixed}: no head is left to fix; say with --heads which are searched")
    elif not options.fixed:
        raise UserError(f"--heads leaves {', '.join(kept)} out: give its loss with --fixed, a preset or a loss file")
    else:
        losses = head_losses(load_loss(options.fixed), kept, options.fixed)
        return tuple(head for head in detector if head in wanted), dict(zip(kept, losses, strict=True))
    return detector, {}


def _first_individuals(options: SearchOptions, config: ProxyConfig, space: SearchSpace) -> list[Genome]:
    """What --init names; by default the config's own loss, if it is one that the space holds, and the identity."""
    if options.init:
        return [space.encode(load_loss(name), f"loss {name} (--init)") for name in options.init]
    try:
        return [space.encode(load_loss(config.loss)), space.identity()]
    except UserError:
        return [space.identity()]


def _executor(options: SearchOptions) -> Executor:
    if options.executor == "inline":
        if options.workers > 1 or options.timeout is not None:
            raise UserError("the inline executor has one worker and no time limit; use --executor process")
        return InlineExecutor()
    return ProcessExecutor(options.workers, options.timeout)


@contextmanager
def _only_one(folder: Path, resume: bool) -> Iterator[None]:
    """Holds the folder's lock, which goes with this process however it ends; makes the folder of a new search."""
    if not resume:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise StoreError(f"{folder} does not exist: there is no search to resume")
    try:
        lock = portalocker.Lock(
            folder / ".lock",
            "w",
            timeout=0,
            flags=portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING,
        )
        lock.acquire()
    except portalocker.exceptions.LockException:
        raise StoreError(f"another search is running in {folder}; wait for it or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _logging(folder: Path, console: Console) -> Iterator[None]:
    """Lines to the terminal, above the progress bar, and with their times to the folder's log."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
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
