"""DEAP's traps: that they are there, and that the algorithms are clear of them."""

import math
import multiprocessing
import pickle
import random

import numpy
import pytest
from deap import algorithms, base, cma, creator, tools

from paramap_d2.search.algorithms import ALGORITHMS, build_algorithm
from paramap_d2.search.algorithms.genetic import GeneticAlgorithm


class Fitness(base.Fitness):
    weights = (1.0,)


class Individual(list):
    def __init__(self, genes, fitness=None):
        super().__init__(genes)
        self.fitness = Fitness() if fitness is None else Fitness((fitness,))


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    numpy.random.seed(0)


def steep(genome):
    return -sum((gene - 0.7) ** 2 for gene in genome)


def test_no_elitism_by_default():
    toolbox = base.Toolbox()
    toolbox.register("clone", lambda individual: Individual(individual, *individual.fitness.values))
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutGaussian, mu=0, sigma=0.3, indpb=1.0)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("evaluate", lambda individual: (steep(individual),))
    population = [Individual([random.random() for _ in range(5)]) for _ in range(8)]
    best = []
    for _ in range(20):
        algorithms.eaSimple(population, toolbox, 0.5, 0.9, ngen=1, verbose=False)
        best.append(max(individual.fitness.values[0] for individual in population))
    assert best != sorted(best)  # the trap: the best is lost

    algorithm = GeneticAlgorithm(5, 8, seed=0)
    best = []
    for _ in range(20):
        algorithm.tell([steep(genome) for genome in algorithm.ask()])
        best.append(max(individual.fitness.values[0] for individual in algorithm.population))
    assert best == sorted(best)


def test_unchanged_clones_are_not_evaluated_again():
    toolbox = base.Toolbox()
    toolbox.register("clone", lambda individual: Individual(individual, *individual.fitness.values))
    toolbox.register("mate", lambda one, other: (one, other))
    toolbox.register("mutate", lambda individual: (individual,))
    population = [Individual([0.1, 0.2], 1.0), Individual([0.3, 0.4], 2.0)]
    children = algorithms.varAnd(population, toolbox, cxpb=1.0, mutpb=1.0)
    assert children == population and not any(child.fitness.valid for child in children)  # the trap

    algorithm = GeneticAlgorithm(2, 4, seed=0)
    algorithm.toolbox.register("mate", lambda one, other: (one, other))
    algorithm.toolbox.register("mutate", lambda individual: (individual,))
    asked = []
    for _ in range(5):
        genomes = algorithm.ask()
        asked += map(tuple, genomes)
        algorithm.tell([steep(genome) for genome in genomes])
    assert len(set(asked)) == len(asked) == algorithm.planned(5)


def test_no_fitness_is_stale():
    # The operators change individuals in place; what they leave a fitness to keeps another genome's.
    individual = Individual([0.5, 0.5], 1.0)
    tools.mutPolynomialBounded(individual, eta=10.0, low=0.0, up=1.0, indpb=1.0)
    assert individual != [0.5, 0.5] and individual.fitness.values == (1.0,)  # the trap

    algorithm = GeneticAlgorithm(4, 6, seed=0, elite=3)
    for _ in range(15):
        algorithm.tell([steep(genome) for genome in algorithm.ask()])
        assert len(algorithm.population) == 6
        for individual in algorithm.population:
            assert individual.fitness.values == (steep(individual),)


def test_a_strategy_sorts_what_it_is_given_and_knows_no_bounds():
    strategy = cma.Strategy([0.9, 0.9], 0.2, lambda_=8)
    points = strategy.generate(Individual)
    assert any(not 0 <= x <= 1 for point in points for x in point)  # a trap
    for place, point in enumerate(points):
        point.fitness.values = (float(place),)
    order = [list(point) for point in points]
    strategy.update(points)
    assert points == order[::-1]  # another

    algorithm = build_algorithm("cmaes", 2, 8, seed=0, initial=[[0.9, 0.9]])
    genomes = algorithm.ask()
    assert all(0 <= gene <= 1 for genome in genomes for gene in genome)
    order = [list(genome) for genome in genomes]
    fitnesses = [float(place) for place in range(8)]
    algorithm.tell(fitnesses)
    assert genomes == order and fitnesses == sorted(fitnesses)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_genomes_reach_a_spawned_process(name):
    # Classes that deap.creator made in this process are not there.
    before = set(vars(creator))
    algorithm = build_algorithm(name, 3, 4, seed=0)
    algorithm.tell([0.0] * len(algorithm.ask()))
    genomes = algorithm.ask()
    assert set(vars(creator)) == before
    assert {type(genome) for genome in genomes} == {list}
    assert {type(gene) for genome in genomes for gene in genome} == {float}
    assert b"deap" not in pickle.dumps(genomes) and b"numpy" not in pickle.dumps(genomes)
    if name == "ga":  # a process is slow to start; the bytes above say the same for all
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(math.fsum, genomes) == [math.fsum(genome) for genome in genomes]


def test_nan_wins_nothing():
    low, high, nan = Individual([0.0], 1.0), Individual([1.0], 99.0), Individual([2.0], math.nan)
    assert nan.fitness > low.fitness and nan.fitness > high.fitness  # the trap
    winners = tools.selTournament([high, low, low, nan], 300, tournsize=4)
    assert sum(winner is nan for winner in winners) > 300 / 4

    for name in ALGORITHMS:
        algorithm = build_algorithm(name, 1, 4, seed=0)
        algorithm.ask()
        with pytest.raises(ValueError, match="a fitness must be a finite number, not nan"):
            algorithm.tell([1.0, math.nan, 3.0, 2.0])
