"""How good genomes are, as far as trainings from several seeds tell, and which of them are worth another one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .store import CONFIRM, ENQUEUED, FINAL, FINISHED, INTERRUPTED, PROXIES, RUN_OFF, SEARCH, Evaluation


@dataclass(frozen=True)
class Candidate:
    """One genome with its proxies, interrupted ones apart, and its final trainings where it has some.

    What the machine failed is among its evaluations, and in no figure. An algorithm's centre may have final trainings
    alone.
    """

    evaluations: list[Evaluation]
    final: Candidate | None = None

    @cached_property
    def first(self) -> Evaluation:
        return next((e for e in self.evaluations if e.counts), None) or self.final.first

    @property
    def genome(self) -> list[float]:
        return self.first.genome

    @cached_property
    def by_seed(self) -> list[float]:
        """Fitness from each seed, the loss's failures as 0: repeats of the same seed are no further evidence and are
        averaged."""
        fitnesses: dict[int, list[float]] = {}
        for e in self.evaluations:
            if not e.counts:
                continue
            fitnesses.setdefault(e.seed, []).append(e.fitness)
        return [statistics.fmean(values) for values in fitnesses.values()]

    @property
    def seeds(self) -> set[int]:
        """Those tried, with or without success."""
        return {e.seed for e in self.evaluations}

    @property
    def mean(self) -> float:
        """Mean fitness over the seeds."""
        return statistics.fmean(self.by_seed)

    def mean_metric(self, name: str) -> float | None:
        """Mean of a figure that every proxy has, such as ``AP50``: of boxes where there are several kinds."""
        values = []
        for e in (e for e in self.evaluations if e.counts):
            found = [key for key in (f"bbox/{name}", name) if key in e.metrics]
            if not found:
                return None
            values.append(e.metrics[found[0]])
        return statistics.fmean(values) if values else None


def ranked_candidates(evaluations: Iterable[Evaluation]) -> list[Candidate]:
    """Genomes from best to worst; those that never finished an evaluation are left out.

    Those with a final training of the latest round come first, by its mean fitness; of several lengths the longest
    counts. A search that goes on after its finals begins another round: what they said is said of the losses that there
    were then. The others stand by the mean fitness of their proxies, those with several seeds before those with one if
    there are any: a single run may be a lucky one. Of equals, the first that was asked for stands first. Run-offs and
    confirming trainings are passed over.
    """
    proxies, finals = [], []
    for e in evaluations:
        if e.status != INTERRUPTED and e.stage not in (RUN_OFF, CONFIRM):
            (finals if e.stage == FINAL else proxies).append(e)
    asked_for = proxies_asked_for(proxies)
    finals = [e for e in finals if e.round == asked_for]
    longest = max((e.planned for e in finals), default=0)
    of_genome = {tuple(c.genome): c for c in _candidates(e for e in finals if e.planned == longest)}
    candidates = [Candidate(c.evaluations, of_genome.pop(tuple(c.genome), None)) for c in _candidates(proxies)]
    candidates += [Candidate([], final) for final in of_genome.values()]

    def place(candidate: Candidate) -> tuple:
        asked = candidate.first.generation, candidate.first.position
        if candidate.final is not None:
            return 0, -candidate.final.mean, *asked
        return 1 if len(candidate.by_seed) > 1 else 2, -candidate.mean, *asked

    return sorted(candidates, key=place)


def proxies_asked_for(evaluations: Iterable[Evaluation]) -> int:
    """Genomes that were asked for and trained, repeats apart: what tells rounds of finals from each other."""
    return len(
        {(e.generation, e.position) for e in evaluations if e.stage in (SEARCH, ENQUEUED) and e.status != INTERRUPTED}
    )


def last_tries(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Of each proxy that has ended the last try, in the order in which they ended."""
    last: dict[tuple[int, int, int], Evaluation] = {}
    for e in evaluations:
        if e.status != INTERRUPTED and e.stage in PROXIES:
            key = e.generation, e.position, e.seed
            last.pop(key, None)
            last[key] = e
    return list(last.values())


def best_candidate(evaluations: Iterable[Evaluation]) -> Candidate | None:
    """The first of :func:`ranked_candidates`."""
    return next(iter(ranked_candidates(evaluations)), None)


def leading_means(evaluations: Iterable[Evaluation]) -> list[float | None]:
    """After each of these proxies, the mean fitness of the best genome so far: of those with several seeds if there
    are any. It falls when a lucky run is repeated."""
    by_genome: dict[tuple[float, ...], dict[int, float]] = {}
    single: dict[tuple[float, ...], float] = {}
    repeated: dict[tuple[float, ...], float] = {}
    found: list[float | None] = []
    for e in evaluations:
        genome = tuple(e.genome)
        if e.counts and (e.status == FINISHED or genome in by_genome):
            seeds = by_genome.setdefault(genome, {})
            seeds[e.seed] = e.fitness
            (single if len(seeds) == 1 else repeated)[genome] = statistics.fmean(seeds.values())
        found.append(max((repeated or single).values(), default=None))
    return found


def fitness_text(candidate: Candidate) -> str:
    """Mean fitness, of the final trainings where there are some, and from how many seeds."""
    deciding = candidate.final or candidate
    text = f"{deciding.mean:.2f}"
    if len(deciding.by_seed) > 1:
        text += f" ({len(deciding.by_seed)} seeds)"
    return text + (f" in {deciding.first.planned} iterations" if candidate.final else "")


def _candidates(evaluations: Iterable[Evaluation]) -> list[Candidate]:
    by_genome: dict[tuple[float, ...], list[Evaluation]] = {}
    for e in evaluations:
        by_genome.setdefault(tuple(e.genome), []).append(e)
    return [
        Candidate(sorted(group, key=lambda e: (e.generation, e.position, e.seed)))
        for group in by_genome.values()
        if any(e.status == FINISHED for e in group)
    ]


def noise(candidates: Iterable[Candidate], least: int = 1) -> float | None:
    """Standard deviation of the fitness over seeds, pooled over the candidates that have several.

    None with fewer degrees of freedom than ``least``.
    """
    squares, freedom = 0.0, 0
    for candidate in candidates:
        values = candidate.by_seed
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom >= least else None


def worth_repeating(candidates: Sequence[Candidate], survivors: int, most: int) -> list[Candidate]:
    """The candidates to train from one more seed before the best of them is known.

    Repeats are spent only where the choice hangs on them (Branke and Schmidt 2003, "Selection in the presence of
    noise"): on the best ``survivors``, each from at least two seeds, and from more, up to ``most``, while the best
    cannot be told from another of them: while their means differ by less than two standard errors of the difference,
    at the noise pooled over all candidates.
    """
    leaders = sorted(candidates, key=lambda c: (-c.mean, c.first.generation, c.first.position))[:survivors]
    lucky = [c for c in leaders if len(c.by_seed) < min(2, most) and len(c.seeds) < most]
    if lucky or not leaders:
        return lucky
    spread = noise(candidates) or 0.0
    best = leaders[0]

    def close(other: Candidate) -> bool:
        error = spread * math.sqrt(1 / len(best.by_seed) + 1 / len(other.by_seed))
        return best.mean - other.mean < 2 * error

    rivals = [other for other in leaders[1:] if close(other)]
    return [c for c in ([best, *rivals] if rivals else []) if len(c.seeds) < most]
