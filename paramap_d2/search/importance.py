"""Which genes and functions a loss's fitness hangs on, as far as the losses that a search has trained can tell."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramap_d2.errors import UserError

from .space import SearchSpace
from .store import FINISHED, PROXIES, STOPPED, Evaluation

LEAST, MOST = 40, 2000
"""Losses from which on there is something to learn, and those that are enough, the latest."""

_FOLDS, _TREES, _REPEATS = 3, 60, 3


@dataclass(frozen=True)
class Share:
    """How much of what a forest knows hangs on one gene or function.

    Attributes:
        name: such as ``dense.rank_numerator.x1``, or without the gene for a whole function.
        lost: mean fall of the coefficient of determination R² when the values are shuffled; about 0 for no importance.
        spread: standard deviation of that fall over folds and shuffles.
    """

    name: str
    lost: float
    spread: float


@dataclass(frozen=True)
class Importance:
    """Both lists from most to least important."""

    losses: int  # that were learnt from
    explained: float  # R² on losses that were left out, at most 1; about 0 or below: nothing was learnt
    genes: list[Share]
    functions: list[Share]  # gradient scales among them


def importance(evaluations: Iterable[Evaluation], space: SearchSpace) -> Importance | None:
    """Permutation importance (Breiman 2001, "Random forests") on losses that the forest has not seen: of each third of
    them by a forest of the other two. A function's genes are shuffled together.

    What is learnt is each loss's mean fitness: failures of the loss as 0, proxies that ended early as what they would
    have come to, had they gone on as the others did. It holds where the search has looked, not for the whole space.

    Returns:
        None with fewer than :data:`LEAST` losses, or if all are equally good.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.inspection import permutation_importance
        from sklearn.metrics import r2_score
        from sklearn.model_selection import KFold
    except ImportError:
        raise UserError("the importance of genes needs scikit-learn: pip install 'paramap_d2[analysis]'") from None
    genomes, fitness = learnt_from(evaluations)
    if len(genomes) < LEAST or np.ptp(fitness) == 0:
        return None
    names = space.gene_names
    functions = list(dict.fromkeys(_function_of(name) for name in names))
    groups = [[i] for i in range(len(names))]
    groups += [[i for i, name in enumerate(names) if _function_of(name) == function] for function in functions]
    falls, explained = [], []
    for seen, left_out in KFold(_FOLDS, shuffle=True, random_state=0).split(genomes):
        forest = RandomForestRegressor(_TREES, max_features=1 / 3, min_samples_leaf=2, random_state=0)
        forest.fit(genomes[seen], fitness[seen])
        rows = np.repeat(np.arange(len(left_out))[:, None], len(groups), axis=1)
        judged = _Grouped(forest, genomes[left_out], groups)
        explained.append(r2_score(fitness[left_out], judged.predict(rows)))
        found = permutation_importance(judged, rows, fitness[left_out], scoring=_r2, n_repeats=_REPEATS, random_state=0)
        falls.append(found.importances)
    fallen = np.concatenate(falls, axis=1)
    shares = [
        Share(name, float(values.mean()), float(values.std(ddof=1)))
        for name, values in zip([*names, *functions], fallen, strict=True)
    ]
    genes, whole = shares[: len(names)], shares[len(names) :]
    return Importance(len(genomes), statistics.fmean(explained), _most_first(genes), _most_first(whole))


@dataclass(frozen=True)
class _Grouped:
    """A forest that is asked with row numbers instead of genes, one column for each group of genes: the genes of a
    group are those of the row that its column names. So what shuffles a column shuffles its genes together."""

    forest: Any
    genomes: np.ndarray
    groups: Sequence[Sequence[int]]

    def fit(self, *_: Any) -> _Grouped:
        """It is; scikit-learn asks whether it could be."""
        return self

    def predict(self, rows: np.ndarray) -> np.ndarray:
        asked = self.genomes.copy()
        for column, genes in enumerate(self.groups):
            moved = rows[:, column] != np.arange(len(rows))
            asked[np.ix_(moved, genes)] = self.genomes[np.ix_(rows[moved, column], genes)]
        return self.forest.predict(asked)


def _r2(judged: _Grouped, rows: np.ndarray, fitness: np.ndarray) -> float:
    from sklearn.metrics import r2_score

    return r2_score(fitness, judged.predict(rows))


def learnt_from(evaluations: Iterable[Evaluation]) -> tuple[np.ndarray, np.ndarray]:
    """(n, genes) and (n,): the genomes, the latest :data:`MOST`, and their mean fitnesses, as :func:`importance` learns
    them."""
    proxies = [e for e in evaluations if e.counts and e.stage in PROXIES]
    lines = _lines(proxies)
    by_genome: dict[tuple[float, ...], list[float]] = {}
    for e in proxies:
        fitness = e.fitness
        if e.status == STOPPED and e.iterations in lines:
            fitness = max(fitness, float(np.polyval(lines[e.iterations], fitness)))
        by_genome.setdefault(tuple(e.genome), []).append(fitness)
    latest = list(by_genome.items())[-MOST:]
    return np.array([genome for genome, _ in latest]), np.array([statistics.fmean(found) for _, found in latest])


def _lines(proxies: Iterable[Evaluation]) -> dict[int, np.ndarray]:
    """By iterations: the straight line from the fitness there to that at the end, of those that were trained to the
    end. Without it a proxy that ended early would say when it ended and little else."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for e in proxies:
        for iteration, fitness in e.curve if e.status == FINISHED else ():
            pairs.setdefault(int(iteration), []).append((fitness, e.fitness))
    known = {at: found for at, found in pairs.items() if len({there for there, _ in found}) > 2}
    return {at: np.polyfit(*zip(*found, strict=True), 1) for at, found in known.items()}


def _function_of(gene: str) -> str:
    head, function = gene.split(".")[:2]
    return f"{head}.{function}"


def _most_first(shares: list[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: -share.lost)
