"""The covariance matrix adaptation evolution strategy, DEAP's, over genomes in [0, 1], to be asked and told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy
from deap import base, cma

from .sampling import (
    ATTEMPTS,
    DRAWS,
    NONE_REVISED,
    SIGMA,
    Revised,
    Unseen,
    checked_fitnesses,
    checked_initial,
    rounded,
    seeded_globals,
)

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome


class _Fitness(base.Fitness):
    weights = (1.0,)


class _Point(list):
    """Where the strategy drew, in its unbounded space."""

    def __init__(self, coordinates: Sequence[float]):
        super().__init__(float(x) for x in coordinates)
        self.fitness = _Fitness()


class Strategy(cma.Strategy):
    """DEAP's, whose mean also moves away from the worse half of a generation.

    Under noise the worst say as much of where to go as the best do, and cost as much: with both, twice as many genomes
    average the noise out (Arnold 2006, "Weighted multirecombination evolution strategies"). So the mean moves by the
    mean of DEAP's step to the better half and the step away from the worse half, which has the same weights from the
    worst on. That holds of many genes. Where genomes outnumber them, the worst are those that lie far out on any side,
    and the step away from them counts as much less as there are more genomes than genes. Step size and covariance
    follow the better half alone. Genomes of equal fitness share their weights, so that what cannot be told apart moves
    nothing.
    """

    def update(self, population: list[_Point]) -> None:
        before = self.centroid
        super().update(population)  # sorts it from the best to the worst
        away = min(1, self.dim / len(population))
        weights = numpy.zeros(len(population))
        weights[: self.mu] += self.weights / (1 + away)
        weights[::-1][: self.mu] -= self.weights * away / (1 + away)
        fitnesses = numpy.array([point.fitness.values[0] for point in population])
        for fitness in numpy.unique(fitnesses):
            weights[fitnesses == fitness] = weights[fitnesses == fitness].mean()
        self.centroid = before + weights @ (numpy.array(population) - before)


class CMAES:
    """A normal distribution whose mean follows each generation's better half and flees the worse one, and whose step
    and covariance follow the better half.

    The strategy knows no bounds. It draws from the whole of space, and a point's genome is the point folded into
    [0, 1] as by mirrors at 0 and 1; told is the point itself, so that its distribution stays normal.

    The distribution begins at the mean of the initial genomes with a standard deviation of 0.2. The first generation
    holds these genomes as well, as if they had been drawn: one that lies farther from the mean than draws do is told
    on its way from the mean, at the length that solutions from elsewhere may have (Hansen, arXiv:1110.4181). Once the
    distribution has narrowed until nothing new comes out of it, or its covariance can no longer be factored, the
    strategy begins anew around its mean.

    No genome is asked for twice. What is asked depends on the arguments and on the fitnesses told alone; the linear
    algebra of another numpy may round otherwise, so go on with a search on the installation that began it. DEAP draws
    from numpy's global generator; its state is put back after use.

    Args:
        genes: length of a genome.
        population: genomes in a generation, at least 2. The strategy's author advises 4 + 3·ln(genes) or more.
        seed: of all random choices.
        initial: genomes to begin with.
        draws: see :data:`paramap_d2.search.algorithms.sampling.DRAWS`.
    """

    def __init__(self, genes: int, population: int, seed: int, initial: Sequence[Genome] = (), draws: int = DRAWS):
        self.initial = checked_initial(initial, genes, population, least=2)
        self.genes, self.size, self.seed = genes, population, seed
        self.generation, self.draws = 0, draws
        self.strategy = self._strategy(numpy.mean(self.initial, axis=0))
        self._asked: list[_Point] = []
        self._unseen = Unseen()

    def ask(self) -> list[Genome]:
        """The genomes to evaluate now, all different from each other and from all before."""
        points, genomes = [], []
        if self.generation == 0:
            for genes in self.initial:
                if (genome := self._unseen.take(genes)) is not None:
                    points.append(self._shortened(genome))
                    genomes.append(genome)
        attempts = 0
        with seeded_globals(self.seed, self.generation):
            while len(genomes) < self.size:
                for point in self.strategy.generate(_Point)[: self.size - len(genomes)]:
                    if (genome := self._unseen.take(folded(point))) is not None:
                        points.append(point)
                        genomes.append(genome)
                attempts += 1
                if attempts == ATTEMPTS:
                    self.strategy = self._strategy(self.strategy.centroid)
        self._asked = points
        return genomes

    def tell(self, fitnesses: Sequence[float], revised: Revised = NONE_REVISED) -> None:
        """The fitnesses of the genomes asked for, in their order.

        Args:
            revised: has no effect: the strategy keeps no genomes, only what it made of them.

        Raises:
            ValueError: another number of fitnesses, or one that is not finite.
        """
        told = checked_fitnesses(fitnesses, len(self._asked), revised)
        for point, fitness in zip(self._asked, told, strict=True):
            point.fitness.values = (fitness,)
        self.strategy.update(list(self._asked))  # a copy: it sorts what it is given
        if not (numpy.isfinite(self.strategy.BD).all() and math.isfinite(self.strategy.sigma)):
            self.strategy = self._strategy(self.strategy.centroid)
        self._asked = []
        self.generation += 1

    def adopt(self, genomes: Sequence[Genome]) -> bool:
        """It learns from its own draws alone."""
        return False

    def centre(self) -> Genome | None:
        """The distribution's mean, folded; None before any fitness was told."""
        return rounded(folded(self.strategy.centroid)) if self.generation else None

    def planned(self, generations: int) -> int:
        """Genomes asked for in that many generations."""
        return self.size * generations

    def _strategy(self, centroid: Sequence[float]) -> cma.Strategy:
        return (Strategy if self.draws > 1 else cma.Strategy)(centroid, SIGMA, lambda_=self.size)

    def _shortened(self, genome: Genome) -> _Point:
        """The genome, or where on its way from the mean a draw may still be expected; the covariance is 1 yet."""
        step = numpy.array(genome) - self.strategy.centroid
        longest = SIGMA * (math.sqrt(self.genes) + 2 * self.genes / (self.genes + 2))
        return _Point(self.strategy.centroid + step * min(1, longest / max(numpy.linalg.norm(step), longest)))


def folded(point: Sequence[float]) -> Genome:
    """The point brought into [0, 1] by mirrors at 0 and 1: 1.2 becomes 0.8, as does −0.8."""
    return [abs((x + 1) % 2 - 1) for x in point]
