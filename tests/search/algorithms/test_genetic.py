"""What the genetic algorithm has of its own; what all algorithms promise is in test_algorithms.py."""

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.algorithms.genetic import GeneticAlgorithm


def fitness(genome):
    return -sum((gene - 0.8) ** 2 for gene in genome)


def run(algorithm, generations, evaluate=fitness):
    asked = []
    for _ in range(generations):
        genomes = algorithm.ask()
        asked.append(genomes)
        algorithm.tell([evaluate(genome) for genome in genomes])
    return asked


def test_first_generation_holds_the_initial_genomes():
    initial = [[0.1] * 4, [0.9] * 4]
    genomes = GeneticAlgorithm(4, 6, seed=0, initial=initial).ask()
    assert genomes[:2] == initial
    near = [min(max(abs(gene - centre[0]) for gene in g) for centre in initial) for g in genomes[2:]]
    assert all(distance < 0.8 for distance in near)


def test_failures_do_not_win():
    # A failure is told as 0: the worst AP there is.
    algorithm = GeneticAlgorithm(2, 6, seed=0)
    genomes = algorithm.ask()
    algorithm.tell([0.0] * 5 + [30.0])
    child = algorithm.ask()
    assert len(child) == 5
    assert max(algorithm.population, key=lambda i: i.fitness.values) == genomes[-1]


@pytest.mark.parametrize(
    "kwargs, message", [({"population": 0}, "population must be"), ({"population": 4, "elite": 4}, "elite must be")]
)
def test_user_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        GeneticAlgorithm(2, seed=0, **kwargs)


def test_a_tiny_space_is_still_searched():
    # Mutation that never moves: children become random genomes instead of repeats.
    algorithm = GeneticAlgorithm(2, 3, seed=0)
    algorithm.toolbox.register("mutate", lambda individual: (individual,))
    asked = [tuple(g) for generation in run(algorithm, 4) for g in generation]
    assert len(set(asked)) == len(asked)


def test_revised_fitnesses_choose_the_elite():
    algorithm = GeneticAlgorithm(2, 4, seed=0)
    first = algorithm.ask()
    algorithm.tell([40.0, 30.0, 20.0, 10.0])
    algorithm.ask()
    # The best was luck: on more seeds the second is better.
    algorithm.tell([5.0, 6.0, 7.0], {tuple(first[0]): 25.0, tuple(first[1]): 28.0, (0.123456, 0.5): 99.0})
    assert [list(i) for i in algorithm.population[:1]] == [first[1]]
    assert [i.fitness.values[0] for i in algorithm.population] == [28.0, 5.0, 6.0, 7.0]


def test_revised_fitnesses_of_the_elite_last():
    algorithm = GeneticAlgorithm(2, 3, seed=0)
    first = algorithm.ask()
    algorithm.tell([40.0, 30.0, 20.0])
    for _ in range(3):
        algorithm.ask()
        algorithm.tell([1.0, 2.0], {tuple(first[0]): 35.5})
    assert algorithm.population[0] == first[0] and algorithm.population[0].fitness.values == (35.5,)


def test_revised_fitnesses_are_not_needed():
    plain, revised = (GeneticAlgorithm(3, 5, seed=0) for _ in range(2))
    first = run(plain, 1)[0]
    assert run(revised, 1)[0] == first
    told = [fitness(g) for g in plain.ask()]
    revised.ask()
    plain.tell(told)
    revised.tell(told, {tuple(g): fitness(g) for g in first})  # the same again
    assert plain.ask() == revised.ask()


def test_what_an_earlier_version_asked_for():
    # A search that was begun must go on as it began: these draws are not to change.
    algorithm = GeneticAlgorithm(2, 3, seed=0, initial=[[0.5, 0.5]], draws=1)
    assert run(algorithm, 3) == [
        [[0.5, 0.5], [0.331083, 0.756504], [0.597751, 0.324213]],
        [[0.331083, 0.792337], [0.597751, 0.332001]],
        [[0.494605, 0.786637], [0.48879, 0.5]],
    ]
    algorithm = GeneticAlgorithm(2, 3, seed=0, initial=[[0.5, 0.5]])
    assert run(algorithm, 3) == [
        [[0.5, 0.5], [0.331083, 0.756504], [0.597751, 0.324213]],
        [[0.560553, 0.756504], [0.597751, 0.104664]],
        [[0.551229, 0.74608], [0.759297, 0.592755]],
    ]
