"""A genetic algorithm over genomes in [0, 1], with DEAP's operators, to be asked and told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deap import base, tools

from paramap_d2.errors import UserError

from .sampling import (
    ATTEMPTS,
    DRAWS,
    NONE_REVISED,
    Revised,
    Unseen,
    checked_fitnesses,
    checked_initial,
    first_generation,
    mean_of_best,
    seeded_globals,
)

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome


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
        draws: see :data:`paramap_d2.search.algorithms.sampling.DRAWS`.

    The operators are in :attr:`toolbox` under DEAP's usual names and can be registered anew.
    """

    def __init__(
        self,
        genes: int,
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        elite: int = 1,
        draws: int = DRAWS,
    ):
        self.initial = checked_initial(initial, genes, population, least=2)
        if not 0 <= elite < population:
            raise UserError(f"--elite must be from 0 to {population - 1} with --population {population}, not {elite}")
        self.genes, self.size, self.seed, self.elite = genes, population, seed, elite
        self.generation = 0
        self.population: list[_Individual] = []
        self._asked: list[_Individual] = []
        self._unseen = Unseen()
        self._told: dict[tuple[float, ...], float] = {}
        self.toolbox = base.Toolbox()
        self.toolbox.register("clone", lambda individual: _Individual(individual))
        self.toolbox.register("select", tools.selTournament, tournsize=max(2, population // 4))
        self.toolbox.register("mate", tools.cxSimulatedBinaryBounded, eta=5.0, low=0.0, up=1.0)
        # Every other gene moves, by 0.13 on average: what tells losses apart grows with the steps between them and the
        # noise does not, and the mean of the best forgives large steps (Beyer 2000, "Evolutionary algorithms in noisy
        # environments": mutate large, inherit small).
        eta, share = (5.0, 0.5) if draws > 1 else (10.0, 0.2)
        self.toolbox.register("mutate", tools.mutPolynomialBounded, eta=eta, low=0.0, up=1.0, indpb=share)

    def ask(self) -> list[Genome]:
        """The genomes to evaluate now, all different from each other and from all before."""
        if self.generation == 0:
            genomes = first_generation(self.initial, self.size, self._unseen, self.seed)
        else:
            with seeded_globals(self.seed, self.generation):
                genomes = self._breed()
        self._asked = [_Individual(genome) for genome in genomes]
        return genomes

    def adopt(self, genomes: Sequence[Genome]) -> bool:
        """Genomes that a user puts beside those asked for: they join the population, and are not asked for again."""
        for genome in genomes:
            self._unseen.take(genome)
        self._asked += [_Individual(genome) for genome in genomes]
        return True

    def tell(self, fitnesses: Sequence[float], revised: Revised = NONE_REVISED) -> None:
        """The fitnesses of the genomes asked for, in their order.

        Args:
            revised: better known fitnesses of genomes told before. Those in the population take them over before its
                elite is chosen; others are passed over.

        Raises:
            ValueError: another number of fitnesses, or one that is not finite.
        """
        told = checked_fitnesses(fitnesses, len(self._asked), revised)
        self._told.update({genome: float(revised[genome]) for genome in revised if genome in self._told})
        for individual in self.population:
            if (genome := tuple(individual)) in revised:
                individual.fitness.values = (float(revised[genome]),)
        for child, fitness in zip(self._asked, told, strict=True):
            child.fitness.values = (fitness,)
            self._told[tuple(child)] = fitness
        self.population = tools.selBest(self.population, self.elite) + self._asked
        self._asked = []
        self.generation += 1

    def centre(self) -> Genome | None:
        """The mean of the best quarter of all genomes told; None before any was."""
        return mean_of_best(self._told)

    def planned(self, generations: int) -> int:
        """Genomes asked for in that many generations; the elite is not asked for again."""
        return self.size + (generations - 1) * (self.size - self.elite) if generations else 0

    def _breed(self) -> list[Genome]:
        children: list[Genome] = []
        while len(children) < self.size - self.elite:
            pair = [self.toolbox.clone(parent) for parent in self.toolbox.select(self.population, 2)]
            if random.random() < 0.9:
                self.toolbox.mate(*pair)
            for child in pair:
                if len(children) < self.size - self.elite:
                    children.append(self._mutated(child))
        return children

    def _mutated(self, child: _Individual) -> Genome:
        """The child mutated until it is new; a random genome should that not come about."""
        for _ in range(ATTEMPTS):
            self.toolbox.mutate(child)
            if (genome := self._unseen.take(child)) is not None:
                return genome
        while (genome := self._unseen.take([random.random() for _ in range(self.genes)])) is None:
            pass
        return genome
