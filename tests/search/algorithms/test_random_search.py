from statistics import fmean, stdev

from paramap_d2.search.algorithms.genetic import GeneticAlgorithm
from paramap_d2.search.algorithms.random_search import RandomSearch


def asked(algorithm, generations):
    generation = []
    for _ in range(generations):
        generation.append(algorithm.ask())
        algorithm.tell([0.0] * len(generation[-1]))
    return generation


def test_the_first_generation_is_the_genetic_algorithms():
    initial = [[0.1, 0.5, 0.9], [0.4, 0.4, 0.4]]
    for seed in range(3):
        assert RandomSearch(3, 8, seed, initial).ask() == GeneticAlgorithm(3, 8, seed, initial).ask()


def test_initial_genomes_come_first_and_once():
    initial = [[0.1] * 4, [0.9] * 4, [0.1] * 4]
    genomes = asked(RandomSearch(4, 6, seed=0, initial=initial), 3)
    assert genomes[0][:2] == [[0.1] * 4, [0.9] * 4]
    assert sum(genome in initial for generation in genomes for genome in generation) == 2


def test_draws_keep_to_the_initial_genomes_in_every_generation():
    # In turn around each; the normal distribution around 0.5 ± 0.2 loses 1.2 % to the truncation.
    generations = asked(RandomSearch(50, 40, seed=0, initial=[[0.5] * 50, [0.5] * 49 + [0.0]]), 6)
    for generation in generations[1:]:
        genes = [gene for genome in generation for gene in genome[:49]]
        assert abs(fmean(genes) - 0.5) < 0.02
        assert abs(stdev(genes) - 0.194) < 0.01
    last = [genome[49] for generation in generations[1:] for genome in generation]
    assert abs(fmean(last[0::2]) - 0.5) < 0.05  # a half normal distribution has its mean at 0.2·√(2/π) = 0.16
    assert abs(fmean(last[1::2]) - 0.16) < 0.05
