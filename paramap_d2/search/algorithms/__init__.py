"""The algorithms that a search may use, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from paramap_d2.errors import UserError

from .cma_es import CMAES
from .genetic import GeneticAlgorithm
from .ppo import PPO
from .random_search import RandomSearch
from .sampling import DRAWS, NONE_REVISED, Revised

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome


class Algorithm(Protocol):
    """What to try next. Deterministic: the same arguments and fitnesses told give the same genomes asked, so that a
    search is resumed by asking and telling again from the start.

    Genomes are plain lists of genes in [0, 1], rounded to 6 digits; fitnesses are matched to them by their order.
    ``initial`` are the genomes that the search began with; of ``ppo``, which evaluates none of them, once a generation
    was told the one that it chose. ``adopt`` is told genomes that a user puts beside those just asked for, and says
    whether they are of use: then their fitnesses are told too, after the others. ``centre`` is where the best is to be
    expected by all that was told.
    """

    initial: Sequence[Genome]

    def ask(self) -> list[Genome]: ...

    def adopt(self, genomes: Sequence[Genome]) -> bool: ...

    def tell(self, fitnesses: Sequence[float], revised: Revised = NONE_REVISED) -> None: ...

    def centre(self) -> Genome | None: ...

    def planned(self, generations: int) -> int: ...


ALGORITHMS = {
    "ga": "a genetic algorithm with elite, tournament, crossover and mutation",
    "cmaes": "covariance matrix adaptation evolution strategy, for generations of a dozen or more",
    "random": "draws around the initial losses, whatever their fitness",
    "ppo": "the paper's: draws around a mean that PPO moves, ever nearer to it over the planned generations",
}
"""What each name stands for, in one line."""

FIXED_LENGTH = ("ppo",)
"""Algorithms whose draws depend on the generations planned: a search with one cannot be resumed for more."""


def build_algorithm(
    name: str,
    genes: int,
    population: int,
    seed: int,
    initial: Sequence[Genome] = (),
    elite: int = 1,
    generations: int = 40,
    draws: int = DRAWS,
) -> Algorithm:
    """The algorithm of a name among :data:`ALGORITHMS`.

    Args:
        genes: length of a genome.
        population: genomes in the first generation, and in the later ones too unless an elite lives on.
        seed: of all random choices.
        initial: genomes to begin with.
        elite: of ``ga``: the best that live on without being asked for again; the others have none.
        generations: of ``ppo``: how many there will be.
        draws: as a search of which version draws; see :data:`DRAWS`.

    Raises:
        UserError: there is no such algorithm, or an argument does not suit it.
    """
    if name == "ga":
        return GeneticAlgorithm(genes, population, seed, initial, elite, draws)
    if name == "cmaes":
        return CMAES(genes, population, seed, initial, draws)
    if name == "random":
        return RandomSearch(genes, population, seed, initial)
    if name == "ppo":
        return PPO(genes, population, seed, initial, generations)
    raise UserError(f"--algorithm must be one of {', '.join(ALGORITHMS)}, not {name!r}")
