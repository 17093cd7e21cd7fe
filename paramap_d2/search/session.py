"""One run of a search from its options: checks, progress, results as they come."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from paramap_d2.errors import NoResultError, UserError
from paramap_d2.files import remove_parts
from paramap_d2.losses import HeadLoss, head_losses, load_loss

from .algorithms import DRAWS, Algorithm, build_algorithm
from .blindness import blindness
from .candidates import Candidate, fitness_text, ranked_candidates
from .confirmation import MOST_SEEDS, SEEDS_FROM, handed_over, verdict, verdict_text
from .curves import Curves
from .deadline import Deadline, TimeUp
from .display import ProgressBar, lines
from .enqueued import Intake
from .evolution import GenerationEnd, Schedule, evolve, generation_line, write_results
from .executors.local import Evaluate, Executor, InlineExecutor, ProcessExecutor, processors
from .executors.ray import RayExecutor, check_gpus
from .heartbeat import INTERRUPTED, TRAININGS, Heartbeat
from .lock import only_one
from .main_guard import check_main_guard
from .metric import check_metric
from .names import loss_names
from .options import SearchOptions
from .proxies.config import ProxyConfig, read_proxy_config
from .proxies.distributed import DistributedProxy
from .proxies.failures import first_line
from .proxies.proxy import Proxy
from .proxies.versions import versions
from .settings import open_store
from .space import Genome, SearchSpace
from .status import STORE, duration, progress
from .stopping import RULES
from .store import Store
from .trainings import SearchProgress

logger = logging.getLogger("paramap_d2.search")

GENERATIONS = 4
"""Unless generations or evaluations are given."""


def run_search(options: SearchOptions) -> Candidate:
    """Run a search or go on with one; returns the loss that it hands over, with the trainings that decided. What
    ``paramap evolve`` calls, and Python's way in: from a notebook as it stands, from a script below ``if __name__ ==
    "__main__":``, since worker processes import the script again. They know what ``options.imports`` name, and what a
    LazyConfig file registers.

    Raises:
        UserError: options, config, data or output folder do not fit, before anything is started.
        NoResultError: no proxy reached an AP, or all of a generation failed.
    """
    from paramap_d2.data import digest

    folder = Path(options.output_dir)
    schedule = _schedule(options)
    processes = _processes(options)
    elsewhere = options.executor == "ray"
    config = read_proxy_config(options.config_file, options.opts, options.imports, processes, elsewhere)
    searched, fixed = _searched_and_fixed(options, config.heads)
    space = SearchSpace(searched, options.points, options.mode, options.fix_grad_scale, fixed)
    before = _stored_settings(folder) if options.resume else {}
    initial = _stored_individuals(before, options, space) or _first_individuals(options, config, space)
    rounds = schedule.generations or math.ceil(schedule.evaluations / options.population)
    draws = before.get("draws", 1) if before else DRAWS
    algorithm = build_algorithm(
        options.algorithm, space.genes, options.population, options.seed, initial, options.elite, rounds, draws
    )
    settings = {
        "config": config.settings,
        "space": space.describe(),
        "algorithm": options.algorithm,
        "population": options.population,
        "elite": options.elite,
        "seed": options.seed,
        "metric": options.metric,
        "initial": initial,
        "stopping": schedule.stopping,
        "data": digest(config.datasets),
    }
    if options.algorithm == "ppo":
        settings["rounds"] = rounds  # its spread shrinks with them
    executor = _executor(options)
    try:
        if not options.resume:
            check_metric(config, options.metric, executor)
        kept = {
            **replace(options, threads=executor.threads).to_store(),  # they change an AP's last bits
            "draws": draws,
            "repeats": schedule.repeats,
            "generations": schedule.generations,
            "evaluations": schedule.evaluations,
            "planned": schedule.planned(algorithm),
            "later": schedule.later,
            "final_iterations": schedule.final_iterations,
            "config_file": options.config_file,
            "opts": list(options.opts),
            "imports": list(options.imports),
            "config_loss": config.loss,
            "loss_keys": config.loss_keys,
            "executor": options.executor,
            "workers": executor.workers,
        }
        with (
            only_one(folder, options.resume),
            open_store(folder, settings, kept, options.resume, options.accept_changes, config.defaults) as store,
        ):
            remove_parts(folder / "finalists")
            proxy = Proxy(
                config,
                space,
                options.metric,
                str(folder / "evaluations"),
                options.checkpoint_proxies,
                running=str(folder / TRAININGS),
                finalists=str(folder / "finalists") if options.keep_finalists else None,
            )
            evaluate = proxy if processes == 1 else DistributedProxy(proxy, processes)
            return _run(options, folder, space, algorithm, schedule, evaluate, executor, store)
    finally:
        executor.close()


def _schedule(options: SearchOptions) -> Schedule:
    at_least = {"seed": 0, "retries": 0}
    at_least |= dict.fromkeys(
        ("threads", "checkpoint_proxies", "generations", "evaluations", "reevaluate", "final_iters", "finalists"), 1
    )
    for name, least in at_least.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if options.fix_grad_scale is not None and not 0 < options.fix_grad_scale < float("inf"):
        raise UserError(f"--fix-grad-scale must be a positive number, not {options.fix_grad_scale:g}")
    if options.stop not in RULES:
        raise UserError(f"--stop must be one of {', '.join(RULES)}, not {options.stop!r}")
    for name in ("hours", "timeout"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be a positive number, not {value:g}")
    for name, most in (("confirm", MOST_SEEDS), ("seed", SEEDS_FROM - 1)):
        if not 0 <= getattr(options, name) <= most:
            raise UserError(f"--{name} must be from 0 to {most}, not {getattr(options, name)}")
    generations = options.generations
    if generations is None and options.evaluations is None:
        generations = GENERATIONS
    return Schedule(
        options.seed,
        generations,
        options.evaluations,
        repeats=options.reevaluate,
        survivors=max(2, options.elite),
        stopping=options.stop,
        final_iterations=options.final_iters,
        finalists=options.finalists,
        retries=options.retries,
        confirm=options.confirm,
    )


def _run(
    options: SearchOptions,
    folder: Path,
    space: SearchSpace,
    algorithm: Algorithm,
    schedule: Schedule,
    evaluate: Evaluate,
    executor: Executor,
    store: Store,
) -> Candidate:
    deadline = Deadline(None if options.hours is None else options.hours * 3600)
    console = Console(stderr=True)
    bar = ProgressBar(console, options.metric, schedule.planned(algorithm))
    curves = Curves(folder / "tensorboard", options.metric, space.gene_names, loss_names(store.settings()))
    curves.follow(store.evaluations())
    heartbeat = Heartbeat(folder)
    written, took = -math.inf, 0.0

    def results() -> None:
        nonlocal written, took
        begin = time.monotonic()
        try:
            write_results(folder, store, space)
        except Exception as error:  # a full disk, a package that changed meanwhile: a picture is not worth a search
            told = None if isinstance(error, OSError) else error  # with its traceback in the log
            logger.warning(f"results could not be written: {first_line(error)}", exc_info=told)
        written = time.monotonic()
        took = written - begin

    def on_generation(end: GenerationEnd) -> None:
        if end.new:
            logger.info(generation_line(end.number, end.evaluations, end.best, options.metric))
            if said := blindness(end.evaluations, ranked_candidates(store.evaluations()), options.metric):
                logger.warning(said)
        curves.add(end)
        if time.monotonic() - written > 20 * took:  # the workers wait meanwhile
            results()

    def on_progress(now: SearchProgress) -> None:
        bar.show(now)
        heartbeat.show(now)
        curves.follow(store.evaluations(after=curves.last))

    with lines(folder, console), bar, heartbeat:
        logger.info(
            f"{schedule.planned(algorithm)} evaluations of {space.genes} genes ({', '.join(space.heads)}), "
            f"{executor.workers} at a time; watch with tensorboard --logdir {folder}"
        )
        if changed := _changed_versions(store):
            logger.warning(f"earlier evaluations were trained with {changed}: AP may differ for that alone")
        begin = time.monotonic()
        try:
            with deadline.raised():
                evolve(
                    algorithm,
                    evaluate,
                    executor,
                    store,
                    schedule,
                    on_progress=on_progress,
                    on_generation=on_generation,
                    deadline=deadline,
                    intake=Intake(folder, store),
                )
            if deadline.passed_over:
                early = f"no time was left for another generation within {options.hours:g} h"
                logger.info(f"{early}, as --hours has it; go on with --resume")
                heartbeat.end(INTERRUPTED, early)
        except TimeUp:
            logger.info(f"ended after {options.hours:g} h, as --hours has it; go on with --resume")
            heartbeat.end(INTERRUPTED, f"after {options.hours:g} h, as --hours has it")
        except NoResultError as error:
            logger.error(str(error))
            raise NoResultError(f"{error}; what became of each is in {folder / 'report.html'}") from None
        finally:
            curves.close()
            results()
        best = handed_over(store.evaluations(), store.settings())
        confirmed = verdict(store.evaluations(), store.settings())
        now = progress(store.evaluations(), store.settings())
        spent = f"after {duration(time.monotonic() - begin)}"
        if now.utilisation is not None:
            spent += f", workers {now.utilisation:.0%} busy"
        if best is None:
            error = f"no proxy reached an AP, {spent}; the reasons are in {folder / 'report.html'}"
            logger.error(error)
            raise NoResultError(error)
        outcome = f"best {options.metric} {fitness_text(best)}, not confirmed"
        if confirmed is not None:
            outcome = verdict_text(confirmed, options.metric)
        logger.info(f"{outcome}, {spent}: {folder / 'best.json'}; report: {folder / 'report.html'}")
    return best.final or best


def _changed_versions(store: Store) -> str:
    """Such as ``torch 2.13 (now 2.14)``; empty where the last evaluation was trained with what is there now."""
    earlier = [e.versions for e in store.evaluations() if e.versions]
    now = versions()
    before = earlier[-1] if earlier else now
    # Of the machine, which the store tells too, a search on a cluster has many.
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    return ", ".join(f"{name} {before[name]} (now {now[name]})" for name in changed)


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
    loss = load_loss(config.loss)
    try:
        return [space.encode(loss, f"loss {config.loss}"), space.identity()]
    except UserError as error:
        logger.warning(f"the search begins without the config's own loss: {error}")
        return [space.identity()]


def _stored_settings(folder: Path) -> Mapping[str, Any]:
    """Of the search that goes on; empty where there is none, which is for :func:`open_store` to tell."""
    if not (folder / STORE).exists():
        return {}
    with Store(folder / STORE, readonly=True) as store:
        return store.settings()


def _stored_individuals(before: Mapping[str, Any], options: SearchOptions, space: SearchSpace) -> list[Genome] | None:
    """Those that a search began with, whatever became of the losses that they were named by; None where --init names
    others now or they are of another space, which is for the comparison of the two searches to tell."""
    same = before.get("options", {"init": None})["init"] == options.to_store()["options"]["init"]
    return before.get("initial") if same and before.get("space") == space.describe() else None


def _processes(options: SearchOptions) -> int:
    """That train one proxy together, one on each of its GPUs."""
    gpus = options.gpus_per_proxy or 0.0
    check_gpus(gpus)
    return max(1, int(gpus))


def _executor(options: SearchOptions) -> Executor:
    # More would never have a proxy, and their share of the processors would lie idle.
    later = [count for count, _ in _schedule(options).later.values()]
    workers = min(options.workers, max(options.population, *later))
    ray_options = ("ray_address", "cpus_per_proxy", "gpus_per_proxy")
    if options.executor != "ray":
        for name in ray_options:
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is an option of --executor ray")
        if options.env:
            raise UserError("--env is an option of --executor ray; other workers have the search's whole environment")
    if options.executor == "inline":
        if options.workers > 1 or options.timeout is not None:
            raise UserError("the inline executor has one worker and no time limit; use --executor process")
        return InlineExecutor(options.threads)
    if options.executor == "process":
        check_main_guard("run_search")
        return ProcessExecutor(workers, options.timeout, options.threads)
    share = 1 if options.ray_address else max(1, processors() // max(1, workers))
    return RayExecutor(
        workers,
        options.timeout,
        options.ray_address,
        share if options.cpus_per_proxy is None else options.cpus_per_proxy,
        options.gpus_per_proxy or 0.0,
        options.threads,
        options.env,
    )
