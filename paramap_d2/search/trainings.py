"""The trainings of a search: made now where its store has none, tried again where the machine failed them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .candidates import Candidate, best_candidate
from .executors.local import Evaluate, Executor
from .proxies.proxy import Outcome, Task, tail
from .status import all_planned
from .store import (
    CONFIRM,
    FAILED,
    FINAL,
    FINISHED,
    INTERRUPTED,
    LAST,
    PROXIES,
    REPEAT,
    RUN_OFF,
    SEARCH,
    SUPERSEDED,
    Evaluation,
    Store,
    StoreError,
)


@dataclass(frozen=True)
class Running:
    """A training under way."""

    task: Task
    worker: int
    started: float  # seconds since the epoch


@dataclass(frozen=True)
class SearchProgress:
    """How far a search has come, told when an evaluation begins or ends."""

    generation: int | None  # None in the final and confirming trainings
    done: int  # evaluations that have ended, of the whole search
    total: int  # as many as are known to come
    best: float | None  # highest fitness so far: the mean of a loss with repeats, or a single one of this generation
    made: int  # evaluations of this run
    running: tuple[Running, ...] = ()
    stage: str = SEARCH  # of what is trained now
    trained: float = 0.0  # in this run, in lengths of a proxy
    left: float = 0.0  # that are known to come, in lengths of a proxy


class Trainings:
    """Runs tasks and keeps what comes of them in the store.

    Args:
        evaluate, executor: what a task is evaluated by, and where.
        retries: of what the machine failed, at most.
        planned: proxies that are known to come from the start.
        limit: of proxies, repeats and enqueued ones among them; None for no limit.
        later: after them, by stage how many trainings of how many iterations (None: as many as a proxy's).
        on_progress: is told when an evaluation begins or ends.

    Attributes:
        done: an evaluation for every task so far, in the order in which they were asked for.
        leader: the best candidate of ``done``.
        generation: that the search is at, for who watches; None in the final trainings.
        made: evaluations that were made in this run.
        round: of final trainings and run-offs, see :class:`paramap_d2.search.store.Evaluation`.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        executor: Executor,
        store: Store,
        retries: int,
        planned: int,
        limit: int | None,
        later: Mapping[str, tuple[int, int | None]],
        on_progress: Callable[[SearchProgress], None],
    ):
        self.evaluate, self.executor, self.store, self.retries = evaluate, executor, store, retries
        self.on_progress = on_progress
        self.done: list[Evaluation] = []
        self.leader: Candidate | None = None
        self.generation: int | None = 0
        self.made = 0
        self.round = 0
        self._running: dict[int, Running] = {}
        self._planned, self._limit, self._later = planned, limit, dict(later)
        self._extra: Counter[str] = Counter()  # trainings by stage, beside the planned ones
        self._tasks: Sequence[Task] = ()
        self._trained = 0.0
        ended = [e for e in store.evaluations() if e.status != INTERRUPTED and e.round != SUPERSEDED]
        self._tries = Counter(map(_key_of, ended))
        self._last = {_key_of(e): e for e in ended}
        self._repeats = sorted((e for e in self._last.values() if e.stage == REPEAT), key=lambda e: e.id)
        self._begun: dict[int, int] = {}  # id of the first evaluation of a generation
        for e in reversed(ended):
            if e.stage == SEARCH:
                self._begun[e.generation] = e.id

    def run(self, tasks: Sequence[Task]) -> list[Evaluation]:
        """An evaluation of every task, in their order."""
        self._extra.update(task.stage for task in tasks if task.stage != SEARCH)
        self._begin(tasks)
        found = [self._last.get(_key(task)) for task in tasks]
        # What the machine failed in an earlier run is tried again in this one.
        found = [e if e is not None and e.counts else None for e in found]
        earlier = [e for e in found if e is not None and e.stage in (FINAL, RUN_OFF) and e.round != self.round]
        if earlier:
            self.store.decides_in(self.round, earlier)
            self._last |= {_key_of(e): replace(e, round=self.round) for e in earlier}
            found = [e and self._last[_key_of(e)] for e in found]
        self._tell(found)
        for _ in range(1 + self.retries):
            places = [place for place, e in enumerate(found) if e is None or e.by_machine]
            if not places:
                break
            self._attempt(tasks, places, found)
        self._keep(found)
        return found

    def recall(self, tasks: Sequence[Task]) -> list[Evaluation]:
        """The evaluations of a whole generation that the algorithm was told of, and its repeats.

        Raises:
            StoreError: the store has none of a task: the algorithm asks for something else than it did.
        """
        self._extra.update(task.stage for task in tasks if task.stage != SEARCH)
        self._begin(tasks)
        found = [self._last.get(_key(task)) for task in tasks]
        if None in found:
            raise StoreError(
                f"{self.store.path}: the algorithm asks for other losses in generation {tasks[0].generation} than it "
                "did when they were trained; go on with the versions that the store's evaluations name"
            )
        self._tell(found)
        end = self._begun.get(tasks[0].generation + 1)
        repeats = [e for e in self._repeats if end is None or e.id < end]
        self._repeats = self._repeats[len(repeats) :]
        self._extra[REPEAT] += len(repeats)
        self._keep([*found, *repeats])
        return found

    def keep_rest(self) -> None:
        """Keep the store's proxies of a generation that was interrupted and is not gone on with in this run: they count
        in every ranking of the store."""
        kept = {_key_of(e) for e in self.done}
        rest = [e for e in self._last.values() if e.stage in PROXIES and _key_of(e) not in kept]
        self._extra.update(e.stage for e in rest if e.stage != SEARCH)
        self._keep(rest)

    def _attempt(self, tasks: Sequence[Task], places: Sequence[int], found: list[Evaluation | None]) -> None:
        tries = [replace(tasks[place], attempt=self._tries[_key(tasks[place])] + 1) for place in places]
        self._running = {}

        def begin(order: int, worker: int) -> None:
            self._running[order] = Running(tries[order], worker, time.time())
            self._tell(found)

        def keep(order: int, outcome: Outcome) -> None:
            task = tries[order]
            self._running.pop(order, None)
            # A training that was killed cannot say how long it was to be.
            outcome.planned = task.iterations or outcome.planned
            if outcome.status == FAILED and not outcome.log and (log := getattr(self.evaluate, "log", None)):
                outcome.log = tail(log(task))  # nor what it printed last
            evaluation = self.store.add(
                Evaluation(
                    task.generation,
                    task.position,
                    task.genome,
                    task.seed,
                    stage=task.stage,
                    attempt=task.attempt,
                    round=self.round if task.stage in (FINAL, RUN_OFF) else 0,
                    **vars(outcome),
                )
            )
            if evaluation.status != INTERRUPTED:
                self.made += 1
                self._trained += self._length(task.iterations)
                self._tries[_key(task)] += 1
                self._last[_key(task)] = evaluation
                found[places[order]] = evaluation
                self._tell(found)

        ending = self.executor.run(self.evaluate, tries, begin)
        try:
            for order, outcome in ending:
                keep(order, outcome)
        except KeyboardInterrupt as stop:  # the executor is to hear of it wherever it struck
            keep(*ending.throw(stop))
            for order, outcome in ending:
                keep(order, outcome)
            raise

    def _begin(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        for task in tasks:
            self._later.pop(task.stage, None)
            if task.stage == CONFIRM:
                self._later.pop(RUN_OFF, None)  # there were no two to hold one between

    def _length(self, iterations: int | None) -> float:
        """Of a training, in lengths of a proxy."""
        known = itertools.chain(self.done, self._last.values())
        proxy = next((e.planned for e in known if e.stage == SEARCH and e.planned), None)
        return iterations / proxy if iterations and proxy else 1.0

    def _keep(self, found: Sequence[Evaluation]) -> None:
        self.done.extend(found)
        self.leader = best_candidate(self.done)

    def _tell(self, current: Sequence[Evaluation | None]) -> None:
        ended = [e for e in current if e is not None]
        highest = [e.fitness for e in ended if e.status == FINISHED and e.stage != REPEAT]
        if self.leader is not None:
            highest.append((self.leader.final or self.leader).mean)
        total = max(all_planned(self._planned, self._limit, self._extra), len(self.done) + len(current))
        done = len(self.done) + len(ended)
        now = [self._length(task.iterations) for task, e in zip(self._tasks, current, strict=True) if e is None]
        later = [count * self._length(iterations) for count, iterations in self._later.values()]
        left = total - done - len(now) + sum(now) + sum(later)
        total += sum(count for count, _ in self._later.values())
        running = tuple(self._running.values())
        best = max(highest, default=None)
        stage = self._tasks[0].stage if self._tasks else SEARCH
        self.on_progress(
            SearchProgress(self.generation, done, total, best, self.made, running, stage, self._trained, left)
        )


def _key(task: Task) -> tuple:
    return tuple(task.genome), task.seed, task.iterations


def _key_of(e: Evaluation) -> tuple:
    return tuple(e.genome), e.seed, (e.planned or None) if e.stage in LAST else None
