import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.search.candidates import (
    best_candidate,
    fitness_text,
    leading_means,
    noise,
    proxies_asked_for,
    ranked_candidates,
    worth_repeating,
)
from paramap_d2.search.store import Evaluation


def evaluation(number=1, generation=0, position=0, fitness=30.0, status="finished", genome=(0.5,), **more):
    return Evaluation(generation, position, list(genome), more.pop("seed", 0), status, fitness, id=number, **more)


def runs(**genomes):
    """Evaluations of genomes told by their fitness from seed 0, 1, …"""
    return [
        evaluation(fitness=fitness, genome=[ord(name) / 1000], position=ord(name), seed=seed)
        for name, fitnesses in genomes.items()
        for seed, fitness in enumerate(fitnesses)
    ]


def names(candidates):
    return "".join(chr(c.first.position) for c in candidates)


def test_candidates_are_ranked_by_their_mean_over_seeds():
    rows = [
        evaluation(1, 0, 0, 40.0, genome=[0.1], seed=0),
        evaluation(2, 0, 1, 37.0, genome=[0.2], seed=0),
        evaluation(3, 0, 2, 39.0, genome=[0.3], seed=0),
        evaluation(4, 1, 0, 30.0, genome=[0.1], seed=1),
        evaluation(5, 1, 1, 38.0, genome=[0.3], seed=1),
        evaluation(6, 1, 2, 0.0, "interrupted", genome=[0.3], seed=2),
        evaluation(7, 1, 3, 0.0, "diverged", genome=[0.4], seed=0),
    ]
    ranking = ranked_candidates(rows)
    assert [(c.genome, c.mean) for c in ranking] == [([0.3], 38.5), ([0.1], 35.0), ([0.2], 37.0)]
    assert [c.first.id for c in ranking] == [3, 1, 2]  # the single run may have been lucky


def test_a_failed_seed_counts_zero_and_a_repeated_one_once():
    runs = [evaluation(1, fitness=30.0), evaluation(2, fitness=0.0, status="diverged", seed=1)]
    (candidate,) = ranked_candidates(runs)
    assert candidate.mean == 15.0
    (candidate,) = ranked_candidates([evaluation(1, fitness=30.0), evaluation(2, fitness=32.0)])
    assert candidate.by_seed == [31.0]


def test_equal_candidates_stand_in_the_order_of_asking():
    rows = [evaluation(1, 0, 3, genome=[0.3]), evaluation(2, 0, 1, genome=[0.1])]
    assert [c.genome for c in ranked_candidates(rows)] == [[0.1], [0.3]]


def test_metrics_are_told_only_where_all_have_them():
    both = [evaluation(1, metrics={"bbox/AP50": 50.0, "segm/AP50": 1.0}), evaluation(2, seed=1, metrics={"AP50": 60.0})]
    assert ranked_candidates(both)[0].mean_metric("AP50") == 55.0
    assert ranked_candidates(both)[0].mean_metric("AP75") is None
    assert ranked_candidates([both[0], evaluation(2, seed=1)])[0].mean_metric("AP50") is None


def test_final_trainings_decide_and_only_the_longest_do():
    rows = runs(a=[30, 31], b=[29], c=[28])
    rows += [
        evaluation(fitness=f, genome=[ord(n) / 1000], stage="final", planned=i, seed=s, round=3)
        for n, f, i, s in [("a", 50, 300, 0), ("b", 52, 300, 0), ("b", 51, 300, 1), ("c", 90, 200, 0)]
    ]
    ranking = ranked_candidates(rows)
    assert names(ranking) == "bac"
    assert ranking[0].final.mean == 51.5 and ranking[0].mean == 29 and ranking[2].final is None
    assert fitness_text(ranking[0]) == "51.50 (2 seeds) in 300 iterations"
    assert fitness_text(ranking[2]) == "28.00"
    # Another proxy, and the search has gone on: what its finals said is of the losses that it had then.
    rows += [evaluation(position=1, genome=[0.5], fitness=29.5)]
    ranking = ranked_candidates(rows)
    assert ranking[0].genome == [0.097] and not any(c.final for c in ranking)  # a, by its mean of several seeds
    assert proxies_asked_for(rows) == 4


def test_nothing_finished():
    assert best_candidate([]) is None
    assert best_candidate([evaluation(status="failed"), evaluation(status="stopped", genome=[0.1])]) is None


def test_noise_is_pooled():
    assert noise(ranked_candidates(runs(a=[1], b=[5]))) is None
    pooled = ranked_candidates(runs(a=[1, 3], b=[5, 5, 5], c=[9]))
    assert noise(pooled) == noise(pooled, least=3) == pytest.approx(math.sqrt(2 / 3))
    assert noise(pooled, least=4) is None


@pytest.mark.parametrize(
    "genomes, survivors, most, wanted",
    [
        ({"a": [30], "b": [20]}, 2, 1, ""),  # no repeats asked for
        ({"a": [30], "b": [20], "c": [10]}, 2, 3, "ab"),  # nobody survives on one run
        ({"a": [30, 20], "b": [24, 25], "c": [26]}, 2, 3, "c"),  # the leader fell: c has to prove itself
        ({"a": [30, 31], "b": [30, 29], "c": [10]}, 2, 3, "ab"),  # close
        ({"a": [30, 31], "b": [20, 21], "c": [10]}, 2, 3, ""),  # clear
        ({"a": [30, 31, 30], "b": [29, 30], "c": [10]}, 2, 3, "b"),  # a has had its repeats
        ({"a": [30, 31], "b": [30, 29], "c": [29, 30], "d": [20, 19]}, 4, 3, "abc"),  # d is clear of the best
        ({"a": [30]}, 2, 3, "a"),
        ({"a": [30, 29]}, 2, 3, ""),
        ({}, 2, 3, ""),
    ],
)
def test_repeats_go_where_the_choice_hangs_on_them(genomes, survivors, most, wanted):
    assert names(worth_repeating(ranked_candidates(runs(**genomes)), survivors, most)) == wanted


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.floats(0, 20),
    st.integers(0, 99),
)
def test_repeats_end_and_leave_a_proven_best(true_means, survivors, most, spread, seed):
    random = Random(seed)
    rows = [evaluation(position=i, genome=[i / 100], fitness=mean) for i, mean in enumerate(true_means)]
    while wanted := worth_repeating(ranked_candidates(rows), survivors, most):
        for c in wanted:
            assert len(c.by_seed) < most
            mean = true_means[c.first.position] + random.gauss(0, spread)
            rows.append(evaluation(position=c.first.position, genome=c.genome, fitness=mean, seed=len(c.by_seed)))
    best = best_candidate(rows)
    assert len(best.by_seed) >= min(2, most)
    assert best.mean == max(c.mean for c in ranked_candidates(rows))


def test_the_leading_mean_falls_when_a_lucky_run_is_repeated():
    order = [("a", 0, 30), ("b", 0, 40), ("b", 1, 20), ("c", 0, 35), ("a", 1, 32)]
    rows = [evaluation(genome=[ord(n)], seed=s, fitness=f) for n, s, f in order]
    rows.insert(0, evaluation(status="diverged", fitness=0.0, genome=[1.0]))
    assert leading_means(rows) == [None, 30, 40, 30, 30, 31]
    finished = [e for e in rows if e.status == "finished"]
    for count in range(1, len(finished) + 1):
        assert leading_means(finished)[count - 1] == best_candidate(finished[:count]).mean
