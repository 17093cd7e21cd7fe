"""The search itself: algorithm, proxy and executor brought together, everything that happens kept in the store."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from paramap_d2.losses import save_loss

from .executors import Evaluate, Executor
from .figures import draw_functions, draw_history
from .proxy import Task
from .report import write_report
from .space import Genome, SearchSpace
from .store import FINISHED, INTERRUPTED, Evaluation, Store, StoreError, best_evaluation

logger = logging.getLogger(__name__)


class Algorithm(Protocol):
    """What to try next. Deterministic: the same fitnesses told give the same genomes asked."""

    def ask(self) -> list[Genome]: ...

    def tell(self, fitnesses: Sequence[float]) -> None: ...


@dataclass(frozen=True)
class SearchProgress:
    """How far a search has come, told after every evaluation."""

    generation: int
    done: int  # evaluations of this generation that have ended
    total: int  # of this generation
    best: Evaluation | None


def open_store(folder: Path, settings: Mapping[str, Any], resume: bool) -> Store:
    """The store of the search in a folder, new or resumed.

    Args:
        settings: what makes a search the same search: all of it is compared on resume.

    Raises:
        StoreError: a search is there and is not to be resumed, or is another one; there is none to resume.
    """
    path = folder / "search.db"
    if resume and not path.exists():
        raise StoreError(f"{folder} holds no search to resume; leave --resume away to start one")
    folder.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    store = Store(path)
    before = store.settings()
    if not before:
        store.write_settings(settings)
    else:
        for key, value in settings.items():
            if difference := _difference(key, before.get(key), value):
                store.close()
                raise StoreError(f"{folder} already holds another search: {difference}; choose another output folder")
        if existed and not resume:
            store.close()
            raise StoreError(f"{folder} already holds this search; add --resume to go on, or choose another folder")
    return store


def _difference(name: str, before: Any, now: Any) -> str:
    """Which setting differs and how, down to the first key of nested ones; empty if none does.

    A config key that only one side has came or went with a version of some library, and is passed over.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() & now.keys() if name == "config" else before.keys() | now.keys():
            if difference := _difference(key if name == "config" else f"{name}.{key}", before.get(key), now.get(key)):
                return difference
        return ""
    return "" if before == now else f"{name} was {_short(before)} there and is {_short(now)} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def evolve(
    algorithm: Algorithm,
    evaluate: Evaluate,
    executor: Executor,
    store: Store,
    *,
    generations: int,
    seed: int,
    on_progress: Callable[[SearchProgress], None] = lambda progress: None,
    on_generation: Callable[[int, list[Evaluation]], None] = lambda generation, evaluations: None,
) -> list[Evaluation]:
    """Run a search, or what is left of it.

    Every evaluation is committed to the store when it ends. Those that the store already holds are not made again, so
    that a resumed search asks and tells its way through what happened before, to the same end as one that was never
    interrupted.

    Args:
        generations: to be reached, counting those already in the store.
        seed: of the proxies.

    Returns:
        The evaluations of all generations, in the order in which they were asked for.
    """
    known = {(tuple(e.genome), e.seed): e for e in store.evaluations() if e.status != INTERRUPTED}
    everything: list[Evaluation] = []
    for generation in range(generations):
        genomes = algorithm.ask()
        tasks = [Task(generation, place, genome, seed) for place, genome in enumerate(genomes)]
        current = [known.get((tuple(task.genome), task.seed)) for task in tasks]
        missing = [place for place, evaluation in enumerate(current) if evaluation is None]

        on_progress(_progress(generation, current, everything))
        for order, outcome in executor.run(evaluate, [tasks[place] for place in missing]):
            task = tasks[missing[order]]
            current[missing[order]] = store.add(Evaluation(**asdict(task), **asdict(outcome)))
            on_progress(_progress(generation, current, everything))
        everything += current
        algorithm.tell([e.fitness if e.status == FINISHED else 0.0 for e in current])
        on_generation(generation, current)
    return everything


def _progress(generation: int, current: list[Evaluation | None], before: list[Evaluation]) -> SearchProgress:
    done = [evaluation for evaluation in current if evaluation is not None]
    return SearchProgress(generation, len(done), len(current), best_evaluation(before + done))


def write_results(folder: Path, store: Store, space: SearchSpace, best_loss: bool = True) -> None:
    """Write what a search leaves beside its store: ``best.json``, ``functions.png``, ``history.png``, ``report.html``.

    May be called at any time; without a finished evaluation there is no best loss to write.
    """
    evaluations, settings = store.evaluations(), store.settings()
    best = best_evaluation(evaluations)
    if best is not None and best_loss:
        losses = space.decode(best.genome)
        meta = {
            "search": {key: settings.get(key) for key in ("config_file", "opts", "algorithm", "seed", "metric")},
            "evaluation": best.id,
            "generation": best.generation,
            "fitness": best.fitness,
            "genome": best.genome,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        save_loss(folder / "best.json", losses, meta)
        draw_functions(losses, folder / "functions.png")
    draw_history(evaluations, folder / "history.png", settings.get("metric", "AP"))
    write_report(evaluations, space, settings, folder / "report.html")


def generation_line(generation: int, evaluations: Sequence[Evaluation], best: Evaluation | None, metric: str) -> str:
    """One line that sums a generation up."""
    finished = [e.fitness for e in evaluations if e.status == FINISHED]
    parts = [f"generation {generation}: {len(evaluations)} evaluations"]
    if finished:
        parts.append(f"{metric} best {max(finished):.2f}, mean {statistics.mean(finished):.2f}")
    for status in sorted({e.status for e in evaluations} - {FINISHED}):
        parts.append(f"{sum(e.status == status for e in evaluations)} {status}")
    if best is not None:
        parts.append(f"best so far {best.fitness:.2f} (generation {best.generation})")
    return ", ".join(parts)
