"""The search itself: algorithm, proxy and executor brought together, everything that happens kept in the store."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramap_d2.errors import NoResultError
from paramap_d2.losses import save_loss

from .algorithms import Algorithm
from .candidates import Candidate, fitness_text, proxies_asked_for, ranked_candidates, worth_repeating
from .confirmation import (
    RUN_OFF_SEEDS,
    confirming_tasks,
    handed_over,
    looks,
    rivals,
    run_off_tasks,
    starting_loss,
    verdict,
    winner,
)
from .deadline import Deadline
from .enqueued import Intake
from .executors.local import Evaluate, Executor
from .names import loss_names
from .proxies.proxy import Task
from .report.functions import draw_functions
from .report.history import draw_history
from .report.page import write_report
from .space import Genome, SearchSpace
from .stopping import checkpoints
from .store import (
    CONFIRM,
    ENQUEUED,
    FAILURES,
    FINAL,
    FINISHED,
    PROXIES,
    REPEAT,
    RUN_OFF,
    SEARCH,
    Evaluation,
    Store,
    Told,
)
from .trainings import SearchProgress, Trainings


@dataclass(frozen=True)
class Schedule:
    """How much is trained in a search, and how the trainings are spent.

    Args:
        seed: of the proxies; repeats take the seeds after it.
        generations: to be reached, counting those already in the store; None for as many as ``evaluations`` allow.
        evaluations: proxies in all, repeats included and final trainings not; None for no limit.
        repeats: seeds that a survivor is trained from at most; 1 for no repeats.
        survivors: the best candidates after a generation that are worth repeats.
        stopping: one of :data:`paramap_d2.search.stopping.RULES`.
        final_iterations: of the trainings that decide between the finalists; None for a run-off of the algorithm's
            centre and the best seen, as long as a proxy, where there is a confirmation.
        finalists: how many they are where they train longer, the algorithm's centre among them.
        confirm: seeds from which the challenger and the start are trained at the end; 0 for no confirmation.
        retries: of a training that the machine failed, at most.
    """

    seed: int
    generations: int | None = None
    evaluations: int | None = None
    repeats: int = 1
    survivors: int = 2
    stopping: str = "none"
    final_iterations: int | None = None
    finalists: int = 3
    confirm: int = 0
    retries: int = 2

    def planned(self, algorithm: Algorithm) -> int:
        """Proxies that the search will make, repeats apart where their number is not limited."""
        if self.generations is None:
            return self.evaluations
        planned = algorithm.planned(self.generations)
        return planned if self.evaluations is None else min(planned, self.evaluations)

    @property
    def later(self) -> dict[str, tuple[int, int | None]]:
        """What follows the proxies: by stage how many trainings of how many iterations (None: as many as a proxy's)."""
        later = {CONFIRM: (2 * self.confirm, self.final_iterations)}
        if self.final_iterations:
            later[FINAL] = self.finalists, self.final_iterations
        elif self.confirm:
            later[RUN_OFF] = 2 * RUN_OFF_SEEDS, None
        return later


@dataclass(frozen=True)
class GenerationEnd:
    """What is told after every generation."""

    number: int
    evaluations: list[Evaluation]  # of the genomes asked for and enqueued, without repeats
    best: Candidate | None  # so far
    new: bool  # whether anything was trained for it in this run


def evolve(
    algorithm: Algorithm,
    evaluate: Evaluate,
    executor: Executor,
    store: Store,
    schedule: Schedule,
    *,
    on_progress: Callable[[SearchProgress], None] = lambda progress: None,
    on_generation: Callable[[GenerationEnd], None] = lambda end: None,
    deadline: Deadline | None = None,
    intake: Intake | None = None,
) -> list[Evaluation]:
    """Run a search, or what is left of it.

    Every evaluation is committed to the store when it ends. Those that the store already holds are not made again, so
    that a resumed search asks and tells its way through what happened before, to the same end as one that was never
    interrupted. What was told after a generation is told again as it was, whatever became of its losses since.

    A generation is asked for, joined by what a user enqueued (``intake``), trained once, and its survivors again from
    further seeds as long as the choice between them is open (:func:`paramap_d2.search.candidates.worth_repeating`);
    then the algorithm is told the means. At the end the finalists are trained, the algorithm's centre and the best that
    it asked for: longer, with repeats by the same rule, or two of them in a run-off. Which wins challenges the loss
    that the search began with (:mod:`paramap_d2.search.confirmation`). What the machine fails is tried again, and told
    as the generation's lowest when that does not help.

    Returns:
        The evaluations of all generations, in the order in which they were asked for: of each training the last try.

    Raises:
        NoResultError: no proxy of a generation says anything about its loss, or all of the first fail for one reason.
    """
    later = schedule.later
    planned = schedule.planned(algorithm), schedule.evaluations
    trainings = Trainings(evaluate, executor, store, schedule.retries, *planned, later, on_progress)
    done, told = trainings.done, store.told()

    def affordable(tasks: list[Task]) -> list[Task]:
        return tasks if schedule.evaluations is None else tasks[: schedule.evaluations - len(done)]

    def repeat(candidates: Callable[[], list[Candidate]], survivors: int, **more: Any) -> None:
        while schedule.repeats > 1 and (wanted := worth_repeating(candidates(), survivors, schedule.repeats)):
            tasks = [_again(candidate, schedule.seed, **more) for candidate in wanted]
            tasks = tasks if more else affordable(tasks)
            if not tasks:
                break
            trainings.run(tasks)

    def tell(now: Told) -> None:
        joined = enqueued[: len(now.fitnesses) - len(genomes)]
        heard = len(now.fitnesses) if joined and algorithm.adopt(joined) else len(genomes)
        algorithm.tell(now.fitnesses[:heard], now.revised)

    generation = 0
    while generation != schedule.generations:
        trainings.generation = generation
        before = trainings.made
        genomes = algorithm.ask()
        marks = checkpoints(schedule.stopping, done)
        tasks = [
            Task(generation, place, genome, schedule.seed, checkpoints=marks) for place, genome in enumerate(genomes)
        ]
        if generation and generation not in told and deadline is not None:
            if not deadline.leaves(done, len(tasks), *later.values(), workers=executor.workers):
                break
        enqueued: list[Genome] = []
        if intake is not None:
            known = [*genomes, *(e.genome for e in done)]
            room = math.inf if schedule.evaluations is None else schedule.evaluations - len(done) - len(tasks)
            enqueued = intake.of(generation) if generation in told else intake.take(generation, known, room)
        more = {"stage": ENQUEUED, "checkpoints": marks}
        tasks += [Task(generation, len(tasks) + n, g, schedule.seed, **more) for n, g in enumerate(enqueued)]
        if generation in told:
            current = trainings.recall(tasks)
        else:
            current = trainings.run(affordable(tasks))
            _check_generation(generation, current[: len(genomes)])
            if len(current) == len(tasks):
                repeat(lambda: ranked_candidates(done), schedule.survivors)
        on_generation(GenerationEnd(generation, current, trainings.leader, trainings.made > before))
        if len(current) < len(genomes):
            break
        if schedule.evaluations is not None and len(done) >= schedule.evaluations:
            # For its centre, and not kept: a larger budget may have more repeats for this generation.
            tell(told.get(generation) or _to_tell(current, len(genomes), done))
            break
        if generation not in told:
            told[generation] = _to_tell(current, len(genomes), done)
            store.tell(generation, told[generation])
        tell(told[generation])
        generation += 1
    trainings.generation = None
    trainings.keep_rest()
    trainings.round = proxies_asked_for(done)
    store.write_settings({"decided": None})
    centre, best_seen = algorithm.centre(), [c.genome for c in ranked_candidates(done)]
    start = starting_loss(algorithm.initial, done)
    length = schedule.final_iterations or max((e.planned for e in done if e.stage in PROXIES), default=0) or None
    challenger = None
    if schedule.final_iterations:
        longer = {"stage": FINAL, "iterations": length}
        finalists = [genome for genome in best_seen if genome != centre]
        finalists = ([centre] * (centre is not None) + finalists)[: schedule.finalists]
        trainings.run([Task(*_place(genome, done), genome, schedule.seed, **longer) for genome in finalists])
        repeat(lambda: [c.final for c in ranked_candidates(done) if c.final is not None], schedule.finalists, **longer)
        challenger = next((c.genome for c in ranked_candidates(done)), None)
    elif schedule.confirm and best_seen:
        two = rivals(centre, best_seen[0], start)
        won = 0
        if len(two) > 1:
            tasks = [Task(*_place(genome, done), genome, schedule.seed, iterations=length) for genome in two]
            found = trainings.run(run_off_tasks(tasks, schedule.seed, algorithm.initial))
            won = winner(found[::2], found[1::2])
        challenger = two[won] if two else start
    confirmation = None
    if challenger is not None and schedule.confirm:
        of_proxies = "centre" if challenger == centre else "best proxy"
        confirmation = {
            "challenger": challenger,
            "start": start,
            "role": "best finalist" if schedule.final_iterations else of_proxies,
            "seeds": schedule.confirm,
            "iterations": length,
        }
        confirmation["looks"] = looks(store.evaluations(), store.settings(), confirmation)
    store.write_settings({"confirmation": confirmation, "decided": proxies_asked_for(done)})
    if confirmation and challenger != start:
        pair = [Task(*_place(g, done), g, schedule.seed, iterations=length) for g in (challenger, start)]
        trainings.run(confirming_tasks(*pair, schedule.seed, algorithm.initial, schedule.confirm))
    return done


def _place(genome: Genome, done: Sequence[Evaluation]) -> tuple[int, int]:
    """Generation and position of a genome; one that was never asked for stands after those of the last generation."""
    asked = [e for e in done if e.stage in (SEARCH, ENQUEUED)]
    for e in asked:
        if e.genome == genome:
            return e.generation, e.position
    last = max(e.generation for e in asked)
    return last, 1 + max(e.position for e in asked if e.generation == last)


def _check_generation(generation: int, evaluations: Sequence[Evaluation]) -> None:
    """
    Raises:
        NoResultError: there is no use in another generation.
    """
    if any(e.status not in FAILURES for e in evaluations):
        return
    reasons = {(e.status, e.cause) for e in evaluations}
    if all(e.by_machine for e in evaluations) or (generation == 0 and len(reasons) == 1):
        error = Counter(e.error for e in evaluations).most_common(1)[0][0]
        tried = max(e.attempt for e in evaluations)
        raise NoResultError(
            f"all {len(evaluations)} proxies of generation {generation} failed"
            + (f", tried {tried} times" if tried > 1 else "")
            + f": {error or evaluations[0].status}"
        )


def _to_tell(current: Sequence[Evaluation], asked: int, done: Sequence[Evaluation]) -> Told:
    """Means where there are several seeds; for what the machine failed the lowest of the genomes asked for, which stand
    first."""
    means = {}
    if any(e.stage == REPEAT for e in done):
        means = {tuple(c.genome): c.mean for c in ranked_candidates(done) if len(c.by_seed) > 1}
    known = [means.pop(tuple(e.genome), e.fitness) if e.counts else None for e in current]
    lowest = min(fitness for fitness in known[:asked] if fitness is not None)
    return Told([lowest if fitness is None else fitness for fitness in known], means)


def _again(candidate: Candidate, seed: int, stage: str = REPEAT, iterations: int | None = None) -> Task:
    """One more training of a candidate, from the first seed that it has not had: candidates share their seeds."""
    had = {e.seed for e in candidate.evaluations}
    fresh = next(s for s in itertools.count(seed) if s not in had)
    return Task(candidate.first.generation, candidate.first.position, candidate.genome, fresh, stage, iterations)


def write_results(folder: Path, store: Store, space: SearchSpace) -> None:
    """Write what a search leaves beside its store: ``best.json``, ``functions.png``, ``history.png``, ``report.html``.

    May be called at any time; without a finished evaluation there is no best loss to write.
    """
    evaluations, settings = store.evaluations(), store.settings()
    best, found = handed_over(evaluations, settings), verdict(evaluations, settings)
    if best is not None:
        losses = space.decode(best.genome)
        deciding = best.final or best
        meta = {
            "search": {key: settings.get(key) for key in ("config_file", "opts", "algorithm", "seed", "metric")},
            "evaluation": best.first.id,
            "generation": best.first.generation,
            "fitness": deciding.mean,
            "seeds": len(deciding.by_seed),
            "final_iterations": best.final and best.final.first.planned,
            "confirmation": found and found.describe(),
            "genome": best.genome,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        save_loss(folder / "best.json", losses, meta)
        draw_functions(losses, folder / "functions.png")
    draw_history(evaluations, folder / "history.png", settings.get("metric", "AP"), loss_names(settings))
    write_report(evaluations, space, settings, folder / "report.html")


def generation_line(generation: int, evaluations: Sequence[Evaluation], best: Candidate | None, metric: str) -> str:
    """One line that sums a generation up."""
    finished = [e.fitness for e in evaluations if e.status == FINISHED]
    parts = [f"generation {generation}: {len(evaluations)} evaluations"]
    if finished:
        parts.append(f"{metric} best {max(finished):.2f}, mean {statistics.mean(finished):.2f}")
    if added := sum(e.stage == ENQUEUED for e in evaluations):
        parts[0] += f" ({added} enqueued)"
    for status in sorted({e.status for e in evaluations} - {FINISHED}):
        parts.append(f"{sum(e.status == status for e in evaluations)} {status}")
    if best is not None:
        parts.append(f"best so far {fitness_text(best)} (generation {best.first.generation})")
    return ", ".join(parts)
