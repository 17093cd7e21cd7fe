"""A genetic algorithm over genomes in [0, 1], with DEAP's operators, to be asked and told."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deap import base, tools

from paramap_d2.errors import UserError

from .space import Genome

ATTEMPTS = 100
"""Times that a child which was already evaluated is mutated again before it is replaced by a random genome."""


class _Fitness(base.Fitness):
    weights = (1.0,)


class _Individual(list):
    """A genome with DEAP's fitness. A class of its own instead of ``deap.creator``'s, which are global."""

    def __init__(self, genes: Sequence[float]):
        super().__init__(genes)
        self.fitness = _Fitness()


class GeneticAlgorithm:
    """Generations of genomes: ask for one, tell its fitnesses, ask for the next.

    The first generation holds the initial genomes and, around them, draws from a normal distribution truncated to
    [0, 1]. Later ones are bred from the current population by tournament, crossover and mutation. The elite of a
    population lives on in the next beside its children, with the fitness it has; no genome is ever asked for twice.

    What is asked depends on the arguments and on the fitnesses told, and on nothing else: a search is resumed by
    asking and telling again from the start. DEAP draws from the global ``random``; its state is put back after use.

    Args:
        genes: length of a genome.
        population: individuals in a population, at least 2.
        seed: of all random choices.
        initial: genomes to begin with; the draws of the first generation are spread evenly around them.
        elite: the best individuals that live on; a generation after the first asks for ``population − elite`` genomes.

    The operators are in :attr:`toolbox` under DEAP's usual names and can be registered anew.
    """

    def __init__(self, genes: int, population: int, seed: int, initial: Sequence[Genome] = (), elite: int = 1):
        if population < 2:
            raise UserError(f"population must be at least 2, not {population}")
        if not 0 <= elite < population:
            raise UserError(f"elite must be from 0 to {population - 1} with a population of {population}, not {elite}")
        self.genes, self.size, self.seed, self.elite = genes, population, seed, elite
        self.initial = [list(genome) for genome in initial] or [[0.5] * genes]
        self.generation = 0
        self.population: list[_Individual] = []
        self._asked: list[_Individual] = []
        self._seen: set[tuple[float, ...]] = set()
        self.toolbox = base.Toolbox()
        self.toolbox.register("clone", lambda individual: _Individual(individual))
        self.toolbox.register("select", tools.selTournament, tournsize=max(2, population // 4))
        self.toolbox.register("mate", tools.cxSimulatedBinaryBounded, eta=5.0, low=0.0, up=1.0)
        # About one in five genes moves, so that a child of 41 genes differs from its parents in several.
        self.toolbox.register("mutate", tools.mutPolynomialBounded, eta=10.0, low=0.0, up=1.0, indpb=0.2)

    def ask(self) -> list[Genome]:
        """The genomes to evaluate now, all different from each other and from all before."""
        with self._random():
            children = self._first() if self.generation == 0 else self._breed()
        self._asked = children
        return [list(child) for child in children]

    def tell(self, fitnesses: Sequence[float]) -> None:
        """The fitnesses of the genomes asked for, in their order.

        Raises:
            ValueError: another number of them, or one that is not finite: DEAP would take NaN for the best of all.
        """
        if len(fitnesses) != len(self._asked):
            raise ValueError(f"{len(self._asked)} fitnesses are expected, not {len(fitnesses)}")
        for child, fitness in zip(self._asked, fitnesses, strict=True):
            if not abs(fitness) < float("inf"):
                raise ValueError(f"a fitness must be a finite number, not {fitness}")
            child.fitness.values = (float(fitness),)
        self.population = tools.selBest(self.population, self.elite) + self._asked
        self._asked = []
        self.generation += 1

    @contextmanager
    def _random(self) -> Iterator[None]:
        state = random.getstate()
        random.seed(f"{self.seed}/{self.generation}")
        try:
            yield
        finally:
            random.setstate(state)

    def _first(self) -> list[_Individual]:
        children: list[_Individual] = []
        for genome in self.initial[: self.size]:
            if (child := self._new(genome)) is not None:
                children.append(child)
        centre = 0
        while len(children) < self.size:
            around = self.initial[centre % len(self.initial)]
            if (child := self._new([_truncated_normal(gene, 0.2) for gene in around])) is not None:
                children.append(child)
            centre += 1
        return children

    def _breed(self) -> list[_Individual]:
        children: list[_Individual] = []
        while len(children) < self.size - self.elite:
            pair = [self.toolbox.clone(parent) for parent in self.toolbox.select(self.population, 2)]
            if random.random() < 0.9:
                self.toolbox.mate(*pair)
            for child in pair:
                if len(children) < self.size - self.elite:
                    children.append(self._mutated(child))
        return children

    def _mutated(self, child: _Individual) -> _Individual:
        for _ in range(ATTEMPTS):
            self.toolbox.mutate(child)
            if (new := self._new(child)) is not None:
                return new
        while (new := self._new([random.random() for _ in range(self.genes)])) is None:
            pass
        return new

    def _new(self, genome: Sequence[float]) -> _Individual | None:
        """The genome as an individual, its genes rounded so that it survives any text format; None if known."""
        genes = tuple(round(float(gene), 6) for gene in genome)
        if genes in self._seen:
            return None
        self._seen.add(genes)
        return _Individual(genes)


def _truncated_normal(mean: float, sigma: float) -> float:
    while not 0 <= (value := random.gauss(mean, sigma)) <= 1:
        pass
    return value
