"""The paper's search: the mean of a truncated normal distribution, moved by proximal policy optimisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from paramap_d2.errors import UserError

from .sampling import (
    NONE_REVISED,
    SIGMA,
    Revised,
    Unseen,
    checked_fitnesses,
    checked_initial,
    draws_around,
    generator,
    mean_of_best,
)

if TYPE_CHECKING:  # it imports torch, which no algorithm needs
    from paramap_d2.search.space import Genome

CLIP = 0.1
UPDATES = 100
LEARNING_RATE = 0.01
WARM_UP = 30  # updates
EDGE = 0.01
"""How near the mean may come to 0 or 1, where its sigmoid is too flat to come away again."""


class PPO:
    """Draws around a mean, with a standard deviation that shrinks to nothing; the mean follows the rewards.

    The search of the paper (Tao et al., arXiv:2112.05138): genes are independent normal variables truncated to [0, 1];
    their standard deviation is 0.2 in the first of T generations and decreases linearly, to 0.2/T in the last. The
    rewards of a generation, centred by their mean, move the mean of the distribution in 100 steps of Adam up the
    clipped objective of PPO (clip 0.1, learning rate 0.01). The search begins at the first initial genome.

    What the paper leaves open is done as in its authors' released code where that is sound:

    - The mean is the sigmoid of what Adam updates, and so stays within (0, 1); here within [0.01, 0.99]. Adam begins
      anew in every generation; its learning rate warms up over 30 steps and then decreases to 0.
    - The objective is the mean of min(r·A, r'·A) over a generation's genomes with their centred rewards A. The ratio r
      of the density at the moved mean to that at the mean drawn from is a product over the genes; r' is the same
      product with each gene's ratio clipped to [0.9, 1.1]. (A clip of the whole product would let 41 genes move
      hardly at all.) Densities include their normalisation, which depends on the mean.
    - Both densities have the standard deviation that was drawn with, so that r is 1 at first. (The released code
      has the next generation's in r alone.)
    - Several initial genomes: the first generation draws equally many around each, and the mean begins where the
      draws did best on average, with these draws alone to learn from: PPO must know the density of what it learns
      from. The initial genomes themselves are not evaluated.

    No genome is asked for twice. What is asked depends on the arguments and on the fitnesses told alone.

    Args:
        genes: length of a genome.
        population: genomes in a generation, at least 2: one alone has no reward left when centred.
        seed: of all random choices.
        initial: genomes to begin with.
        generations: T; no more can be asked for.
    """

    def __init__(self, genes: int, population: int, seed: int, initial: Sequence[Genome] = (), generations: int = 40):
        if generations < 1:
            raise UserError(f"--generations must be at least 1, not {generations}")
        self.initial = checked_initial(initial, genes, population, least=2)
        self._starts: dict[tuple[float, ...], Genome] = {}  # first means, and the initial genomes that they stand for
        for genome in self.initial:
            self._starts.setdefault(tuple(min(max(gene, EDGE), 1 - EDGE) for gene in genome), genome)
        self.mean = list(next(iter(self._starts)))
        self.size, self.seed, self.generations = population, seed, generations
        self.generation = 0
        self._asked: list[tuple[Genome, list[Genome]]] = []  # means, and what was drawn around them
        self._told: dict[tuple[float, ...], float] = {}
        self._unseen = Unseen()

    @property
    def sigma(self) -> float:
        """Standard deviation of this generation's draws, before they are truncated."""
        return SIGMA * (self.generations - self.generation) / self.generations

    def ask(self) -> list[Genome]:
        """The genomes to evaluate now, all different from each other and from all before.

        Raises:
            ValueError: all generations have been told.
        """
        if self.generation == self.generations:
            raise ValueError(f"all {self.generations} generations have been told; the search has ended")
        rng = generator(self.seed, self.generation)
        means = [*map(list, self._starts)] if self.generation == 0 else [self.mean]
        self._asked = [
            (mean, draws_around([mean], len(range(place, self.size, len(means))), self._unseen, rng, self.sigma))
            for place, mean in enumerate(means)
        ]
        return [list(genome) for _, genomes in self._asked for genome in genomes]

    def tell(self, fitnesses: Sequence[float], revised: Revised = NONE_REVISED) -> None:
        """The fitnesses of the genomes asked for, in their order.

        Args:
            revised: better known fitnesses of genomes told before: for the centre. The mean that they moved stays.

        Raises:
            ValueError: another number of fitnesses, or one that is not finite.
        """
        told = checked_fitnesses(fitnesses, sum(len(genomes) for _, genomes in self._asked), revised)
        self._told.update({genome: float(revised[genome]) for genome in revised if genome in self._told})
        groups = []
        for mean, genomes in self._asked:
            self._told.update(zip(map(tuple, genomes), told[: len(genomes)], strict=True))
            groups.append((mean, numpy.array(genomes), numpy.array(told[: len(genomes)])))
            del told[: len(genomes)]
        mean, genomes, rewards = max(groups, key=lambda group: group[2].mean())  # of equal ones the first
        if self.generation == 0:
            self.initial = [self._starts[tuple(mean)]]
        self.mean = moved_mean(numpy.array(mean), self.sigma, genomes, rewards - rewards.mean()).tolist()
        self._asked = []
        self.generation += 1

    def adopt(self, genomes: Sequence[Genome]) -> bool:
        """It learns from its own draws alone."""
        return False

    def centre(self) -> Genome | None:
        """The mean of the best quarter of all genomes told; None before any was.

        The mean of the distribution is where the last generation's noise took it: Adam moves every gene by about as
        much, however little its genomes tell of it.
        """
        return mean_of_best(self._told)

    def planned(self, generations: int) -> int:
        """Genomes asked for in that many generations."""
        return self.size * generations


def moved_mean(mean: numpy.ndarray, sigma: float, genomes: numpy.ndarray, advantages: numpy.ndarray) -> numpy.ndarray:
    """The mean after one generation's updates with Adam (Kingma & Ba, arXiv:1412.6980, and its constants).

    Args:
        mean: that the genomes were drawn around, (genes,), within (0, 1).
        sigma: standard deviation that they were drawn with.
        genomes: (population, genes).
        advantages: rewards without their mean, (population,).
    """
    drawn, _ = log_truncated_normal(genomes, mean, sigma)
    logit = numpy.log(mean / (1 - mean))
    first, second = numpy.zeros_like(mean), numpy.zeros_like(mean)
    for step in range(UPDATES):
        gradient = objective_gradient(mean, sigma, genomes, drawn, advantages) * mean * (1 - mean)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = LEARNING_RATE * min(step / WARM_UP, (UPDATES - step) / (UPDATES - WARM_UP))
        scale = numpy.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        logit = logit + rate * first / (1 - 0.9 ** (step + 1)) / scale
        mean = 1 / (1 + numpy.exp(-logit))
    return mean.clip(EDGE, 1 - EDGE)


def objective_gradient(
    mean: numpy.ndarray, sigma: float, genomes: numpy.ndarray, drawn: numpy.ndarray, advantages: numpy.ndarray
) -> numpy.ndarray:
    """Gradient (genes,) of PPO's clipped objective with respect to the mean.

    Args:
        drawn: log density of every gene where it was drawn, (population, genes); the others as of :func:`moved_mean`.
    """
    log_density, slope = log_truncated_normal(genomes, mean, sigma)
    log_ratio = log_density - drawn
    clipped = log_ratio.clip(math.log(1 - CLIP), math.log(1 + CLIP))
    # A bound that no update comes near, against overflow: exp(500) is still a number.
    ratio = numpy.exp(log_ratio.sum(axis=1).clip(max=500))
    clipped_ratio = numpy.exp(clipped.sum(axis=1))
    unclipped = ratio * advantages <= clipped_ratio * advantages
    weight = numpy.where(unclipped, ratio, clipped_ratio) * advantages
    moves = unclipped[:, None] | (log_ratio == clipped)
    return (weight[:, None] * slope * moves).mean(axis=0)


def log_truncated_normal(x: numpy.ndarray, mean: numpy.ndarray, sigma: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Logarithm of the density on [0, 1] of a truncated normal distribution, and its derivative by the mean.

    Args:
        x: values in [0, 1], (population, genes).
        mean: of the normal distribution before it is truncated, (genes,), within (0, 1).
        sigma: its standard deviation.

    Returns:
        Both (population, genes).
    """
    low, high = -mean / sigma, (1 - mean) / sigma
    mass = _normal_cdf(high) - _normal_cdf(low)
    z = (x - mean) / sigma
    height = 1 / (sigma * math.sqrt(2 * math.pi))
    log_density = math.log(height) - z**2 / 2 - numpy.log(mass)
    mass_slope = height * (numpy.exp(-(low**2) / 2) - numpy.exp(-(high**2) / 2))
    return log_density, z / sigma - mass_slope / mass


def _normal_cdf(z: numpy.ndarray) -> numpy.ndarray:
    return numpy.array([(1 + math.erf(value / math.sqrt(2))) / 2 for value in z])
