import statistics
from random import Random

import fake_proxies
import pytest

from paramap_d2.search.algorithms import build_algorithm
from paramap_d2.search.confirmation import (
    handed_over,
    verdict,
)
from paramap_d2.search.evolution import Schedule, evolve
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.store import CONFIRM, FINISHED, Store

GENES = 4
START = [0.2] * GENES


def noisy(task):
    """Best where all genes are 0.7, with noise that hangs on the seed."""
    distance = fake_proxies.target_distance(task)
    fitness = distance.fitness + Random(f"{task.genome} {task.seed}").gauss(0, 1)
    return Outcome(FINISHED, fitness, planned=task.iterations or 100)


def search(folder, evaluate=noisy, algorithm="ga", generations=4, initial=(START,), confirm=3, **schedule):
    folder.mkdir(exist_ok=True)
    with Store(folder / "search.db") as store:
        asked = build_algorithm(algorithm, GENES, 8, 1, initial, generations=generations)
        evolve(asked, evaluate, InlineExecutor(), store, Schedule(5, generations, confirm=confirm, **schedule))
        return store.evaluations(), store.settings(), asked.centre()


def confirming(evaluations):
    return [e for e in evaluations if e.stage == CONFIRM]


@pytest.mark.parametrize("algorithm", ["ga", "cmaes", "ppo", "random"])
def test_the_centre_is_confirmed_against_the_start_on_seeds_that_nothing_else_had(tmp_path, algorithm):
    evaluations, settings, centre = search(tmp_path / "out", algorithm=algorithm, repeats=3)
    found = verdict(evaluations, settings)
    assert found.challenger == centre and found.start == START
    assert {tuple(e.genome) for e in confirming(evaluations)} == {tuple(centre), tuple(START)}
    assert len(found.of_challenger) == len(found.of_start) == 3
    seeds = {e.seed for e in confirming(evaluations)}
    assert len(seeds) == 3 and not seeds & {e.seed for e in evaluations if e.stage != CONFIRM}
    assert {e.planned for e in confirming(evaluations)} == {100}
    means = [statistics.fmean(e.fitness for e in of) for of in (found.of_challenger, found.of_start)]
    assert found.gain == pytest.approx(means[0] - means[1])
    assert found.passed == (found.gain > 0)
    best = handed_over(evaluations, settings)
    assert best.genome == (centre if found.passed else START)
    assert best.mean == (means[0] if found.passed else means[1])
