"""Random search: what every other algorithm has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .sampling import (
    NONE_REVISED,
    Revised,
    Unseen,
    checked_fitnesses,
    checked_initial,
    draws_around,
    first_generation,
    generator,
    mean_of_best,
)

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome


class RandomSearch:
    """Draws from normal distributions around the initial genomes, truncated to [0, 1]; fitnesses do not matter.

    With the same seed the first generation is the genetic algorithm's, and the later ones are drawn as the first was.
    No genome is asked for twice. What is asked depends on the arguments alone.

    Args:
        genes: length of a genome.
        population: genomes in a generation, at least 1.
        seed: of all random choices.
        initial: genomes to begin with; they are asked for first, and the draws are spread evenly around them.
    """

    def __init__(self, genes: int, population: int, seed: int, initial: Sequence[Genome] = ()):
        self.initial = checked_initial(initial, genes, population, least=1)
        self.size, self.seed = population, seed
        self.generation = 0
        self._asked: list[tuple[float, ...]] = []
        self._told: dict[tuple[float, ...], float] = {}
        self._unseen = Unseen()

    def ask(self) -> list[Genome]:
        """The genomes to evaluate now, all different from each other and from all before."""
        if self.generation == 0:
            genomes = first_generation(self.initial, self.size, self._unseen, self.seed)
        else:
            genomes = draws_around(self.initial, self.size, self._unseen, generator(self.seed, self.generation))
        self._asked = list(map(tuple, genomes))
        return genomes

    def tell(self, fitnesses: Sequence[float], revised: Revised = NONE_REVISED) -> None:
        """The fitnesses of the genomes asked for, in their order; they have no effect on what is asked.

        Raises:
            ValueError: another number of fitnesses, or one that is not finite.
        """
        told = checked_fitnesses(fitnesses, len(self._asked), revised)
        self._told.update({genome: float(revised[genome]) for genome in revised if genome in self._told})
        self._told.update(zip(self._asked, told, strict=True))
        self._asked = []
        self.generation += 1

    def adopt(self, genomes: Sequence[Genome]) -> bool:
        """It learns from its own draws alone."""
        return False

    def centre(self) -> Genome | None:
        """The mean of the best quarter of all genomes told; None before any was."""
        return mean_of_best(self._told)

    def planned(self, generations: int) -> int:
        """Genomes asked for in that many generations."""
        return self.size * generations
