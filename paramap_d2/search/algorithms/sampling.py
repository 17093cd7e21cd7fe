"""What the algorithms draw with: generators seeded by the generation, truncated normals, genomes that are new."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy

from paramap_d2.errors import UserError

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome

SIGMA = 0.2
"""Standard deviation of the first draws: the paper's."""

ATTEMPTS = 100
"""Draws without a new genome after which an algorithm does something else."""

DRAWS = 2
"""How the algorithms draw. A search that was begun goes on as it began: 1 is version 0.1, where ``ga`` moved fewer
genes by less, and ``cmaes`` followed the better half alone."""

Revised = Mapping[tuple[float, ...], float]
"""Better known fitnesses of genomes told in earlier generations."""

NONE_REVISED: Revised = MappingProxyType({})


def generator(seed: int, generation: int) -> random.Random:
    """The generator of one generation. It needs no state of the generations before."""
    return random.Random(f"{seed}/{generation}")


@contextmanager
def seeded_globals(seed: int, generation: int) -> Iterator[None]:
    """Seeds the global generators of ``random`` and numpy, from which DEAP draws, and puts their states back."""
    states = random.getstate(), numpy.random.get_state()
    random.seed(f"{seed}/{generation}")
    numpy.random.seed(list(hashlib.sha256(f"{seed}/{generation}".encode()).digest()))
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])


def rounded(genes: Sequence[float]) -> Genome:
    """Genes as a genome is asked for: with 6 digits, so that they survive any text format."""
    return [round(float(gene), 6) for gene in genes]


def mean_of_best(told: Mapping[tuple[float, ...], float]) -> Genome | None:
    """The mean of the best quarter of genomes, by their fitnesses; of equals the first. None without any genome.

    What the best have in common, and not what the luckiest has: their noise and their chance genes average out.
    """
    if not told:
        return None
    best = sorted(told, key=told.get, reverse=True)[: math.ceil(len(told) / 4)]
    return rounded(numpy.mean(best, axis=0))


class Unseen:
    """Hands every genome out once."""

    def __init__(self) -> None:
        self._seen: set[tuple[float, ...]] = set()

    def take(self, genes: Sequence[float]) -> Genome | None:
        """The genes as :func:`rounded` gives them; None if they were taken before."""
        genome = rounded(genes)
        if tuple(genome) in self._seen:
            return None
        self._seen.add(tuple(genome))
        return genome


def truncated_normal(mean: float, sigma: float, rng: random.Random) -> float:
    """A draw from the normal distribution truncated to [0, 1]; the mean lies there."""
    while not 0 <= (value := rng.gauss(mean, sigma)) <= 1:
        pass
    return value


def draws_around(
    centres: Sequence[Genome], count: int, unseen: Unseen, rng: random.Random, sigma: float = SIGMA
) -> list[Genome]:
    """New genomes from truncated normals around the centres, in turn."""
    genomes: list[Genome] = []
    turn = 0
    while len(genomes) < count:
        centre = centres[turn % len(centres)]
        if (genome := unseen.take([truncated_normal(gene, sigma, rng) for gene in centre])) is not None:
            genomes.append(genome)
        turn += 1
    return genomes


def first_generation(initial: Sequence[Genome], population: int, unseen: Unseen, seed: int) -> list[Genome]:
    """The initial genomes, each once, and draws spread evenly around them."""
    genomes = [genome for genes in initial if (genome := unseen.take(genes)) is not None]
    return genomes + draws_around(initial, population - len(genomes), unseen, generator(seed, 0))


def checked_initial(initial: Sequence[Genome], genes: int, population: int, least: int) -> list[Genome]:
    """The initial genomes, by default one in the middle of the space.

    Raises:
        UserError: the population is smaller than ``least``, or too small for the initial genomes.
        ValueError: an initial genome that is none of this space.
    """
    if population < least:
        raise UserError(f"--population must be at least {least}, not {population}")
    genomes = [[float(gene) for gene in genome] for genome in initial] or [[0.5] * genes]
    for genome in genomes:
        if len(genome) != genes or not all(0 <= gene <= 1 for gene in genome):
            raise ValueError(f"an initial genome has {genes} genes in [0, 1]; this has not: {genome}")
    different = len({tuple(genome) for genome in genomes})
    if different > population:
        raise UserError(
            f"--population must be at least {different} to begin with {different} different losses, not {population}"
        )
    return genomes


def checked_fitnesses(fitnesses: Sequence[float], asked: int, revised: Revised) -> list[float]:
    """The fitnesses of the genomes asked for.

    Raises:
        ValueError: another number of them, nothing was asked for, or one (revised ones too) is not finite: DEAP takes
            NaN for the best of all.
    """
    if not asked:
        raise ValueError("no genome has been asked for: ask before each tell")
    if len(fitnesses) != asked:
        raise ValueError(f"{asked} fitnesses are expected, not {len(fitnesses)}")
    for fitness in [*fitnesses, *revised.values()]:
        if not math.isfinite(fitness):
            raise ValueError(f"a fitness must be a finite number, not {fitness}")
    return [float(fitness) for fitness in fitnesses]
