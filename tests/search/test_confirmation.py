import itertools
import json
import math
import statistics
from dataclasses import replace
from random import Random

import fake_proxies
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paramap_d2.losses import load_loss
from paramap_d2.search.algorithms import build_algorithm
from paramap_d2.search.algorithms.sampling import rounded
from paramap_d2.search.candidates import ranked_candidates
from paramap_d2.search.confirmation import (
    MOST_SEEDS,
    SEEDS_FROM,
    confirmation_seed,
    half_width,
    handed_over,
    signed,
    starting_loss,
    verdict,
    verdict_text,
)
from paramap_d2.search.evolution import Schedule, evolve, write_results
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.status import status_text
from paramap_d2.search.store import CONFIRM, FINAL, FINISHED, INTERRUPTED, Evaluation, Store

GENES = 4
START = [0.2] * GENES


def noisy(task):
    """Best where all genes are 0.7, with noise that hangs on the seed."""
    distance = fake_proxies.target_distance(task)
    fitness = distance.fitness + Random(f"{task.genome} {task.seed}").gauss(0, 1)
    return Outcome(FINISHED, fitness, planned=task.iterations or 100)


def search(
    folder, evaluate=noisy, algorithm="ga", generations=4, initial=(START,), confirm=3, population=8, **schedule
):
    folder.mkdir(exist_ok=True)
    with Store(folder / "search.db") as store:
        asked = build_algorithm(algorithm, GENES, population, 1, initial, generations=generations)
        evolve(asked, evaluate, InlineExecutor(), store, Schedule(5, generations, confirm=confirm, **schedule))
        return store.evaluations(), store.settings(), asked.centre()


def confirming(evaluations):
    return [e for e in evaluations if e.stage == CONFIRM]


@pytest.mark.parametrize("algorithm", ["ga", "cmaes", "ppo", "random"])
def test_the_challenger_is_confirmed_against_the_start_on_seeds_that_nothing_else_had(tmp_path, algorithm):
    evaluations, settings, centre = search(tmp_path / "out", algorithm=algorithm, repeats=3)
    found = verdict(evaluations, settings)
    assert found.start == START
    assert {tuple(e.genome) for e in confirming(evaluations)} == {tuple(found.challenger), tuple(START)}
    assert len(found.of_challenger) == len(found.of_start) == 3
    seeds = {e.seed for e in confirming(evaluations)}
    assert len(seeds) == 3 and not seeds & {e.seed for e in evaluations if e.stage != CONFIRM}
    assert {e.planned for e in confirming(evaluations)} == {100}
    means = [statistics.fmean(e.fitness for e in of) for of in (found.of_challenger, found.of_start)]
    assert found.gain == pytest.approx(means[0] - means[1])
    assert found.passed == (found.gain > 0)
    best = handed_over(evaluations, settings)
    assert best.genome == (found.challenger if found.passed else START)
    assert best.mean == (means[0] if found.passed else means[1])


def story(evaluations):
    return [(e.stage, e.generation, e.position, e.genome, e.seed, e.planned, e.status, e.fitness) for e in evaluations]


@pytest.mark.parametrize("more", [{}, {"final_iterations": 300, "repeats": 2}])
@pytest.mark.parametrize("before_end", [1, 4, 6])
def test_cut_off_in_its_midst_it_goes_on_to_the_same_end(tmp_path, before_end, more):
    whole, settings, _ = search(tmp_path / "whole", **more)
    calls = itertools.count()

    class Killed(BaseException):
        pass

    def cut_off(task):
        if next(calls) == len(whole) - before_end:
            raise Killed
        return noisy(task)

    with pytest.raises(Killed):
        search(tmp_path / "cut", cut_off, **more)
    with Store(tmp_path / "cut" / "search.db") as store:  # best.json is of the search alone until it is confirmed
        assert verdict(store.evaluations(), store.settings()) is None
    made = []

    def counted(task):
        made.append(task)
        return noisy(task)

    again, settings_again, _ = search(tmp_path / "cut", counted, **more)
    assert story(again) == story(whole) and settings_again["confirmation"] == settings["confirmation"]
    assert len(made) == before_end and {task.stage for task in made} == {CONFIRM}


def test_more_seeds_may_be_added_and_repeat_nothing(tmp_path):
    search(tmp_path / "out")
    made = []

    def counted(task):
        made.append((task.stage, task.seed))
        return noisy(task)

    evaluations, settings, _ = search(tmp_path / "out", counted, confirm=5)
    assert made == [(CONFIRM, confirmation_seed(5, [START], number)) for number in (3, 3, 4, 4)]
    found = verdict(evaluations, settings)
    assert len(found.of_start) == 5 and found.looks == 2
    assert found.interval[1] - found.gain > replace(found, looks=1).interval[1] - found.gain
    again = verdict(*search(tmp_path / "out", counted, confirm=5)[:2])
    assert again.looks == 2  # and told the same
    assert story(evaluations) == story(search(tmp_path / "once", confirm=5)[0])


def test_a_search_that_goes_on_is_confirmed_anew(tmp_path):
    search(tmp_path / "out", generations=2)
    evaluations, settings, _ = search(tmp_path / "out", generations=5)
    found = verdict(evaluations, settings)
    assert len(found.of_start) == len(found.of_challenger) == 3
    assert len(confirming(evaluations)) == 9  # the start's are not made again
    assert found.looks == 1


def test_with_final_trainings_the_best_finalist_challenges_at_their_length(tmp_path):
    def proxy(task):
        outcome = noisy(task)
        if task.iterations:  # the centre's place is the last
            outcome.fitness = 100.0 - 10 * task.position - task.generation
        return outcome

    evaluations, settings, centre = search(tmp_path / "out", proxy, final_iterations=300, finalists=8)
    finals = [e for e in evaluations if e.stage == FINAL]
    assert centre in [e.genome for e in finals] and len({tuple(e.genome) for e in finals}) == 8
    best = max(finals, key=lambda e: e.fitness)
    found = verdict(evaluations, settings)
    assert found.challenger == best.genome != centre and found.role == "best finalist"
    assert {e.planned for e in confirming(evaluations)} == {300}


def test_the_centre_may_be_the_best_finalist(tmp_path):
    def proxy(task):
        outcome = noisy(task)
        asked = task.generation < 3 or task.position < 7  # eight less the elite are asked for
        return outcome if asked or not task.iterations else Outcome(FINISHED, 500.0, planned=task.iterations)

    evaluations, settings, centre = search(tmp_path / "out", proxy, final_iterations=300)
    assert verdict(evaluations, settings).challenger == centre
    assert handed_over(evaluations, settings).mean == 500.0


def test_none_is_asked_for_or_none_is_worth_it(tmp_path):
    evaluations, settings, _ = search(tmp_path / "none", confirm=0)
    assert verdict(evaluations, settings) is None and not confirming(evaluations)
    assert handed_over(evaluations, settings).mean == max(e.fitness for e in evaluations)

    def best_at_start(task):
        return Outcome(FINISHED, 50.0 if task.genome == START else 1.0)

    evaluations, settings, _ = search(tmp_path / "start", best_at_start, generations=1, population=4)
    found = verdict(evaluations, settings)  # the best quarter of four is the start itself
    assert found.challenger == found.start == START and not confirming(evaluations) and not found.passed
    assert handed_over(evaluations, settings).genome == START
    assert verdict_text(found, "AP") == "start handed over: the centre is the loss that the search began with"


def test_what_fails(tmp_path):
    def machine(task):
        return Outcome("failed", error="killed") if task.stage == CONFIRM else noisy(task)

    evaluations, settings, _ = search(tmp_path / "machine", machine)
    found = verdict(evaluations, settings)
    assert found.gain is None and not found.passed and handed_over(evaluations, settings).genome == START
    assert verdict_text(found, "AP") == "start handed over: confirming trainings failed"

    def diverging(task):
        last = task.stage == CONFIRM and task.seed == confirmation_seed(5, [START], 2) and task.genome != START
        return Outcome("diverged", planned=task.iterations) if last else noisy(task)

    one, settings, _ = search(tmp_path / "diverging", diverging, generations=5)
    calm = verdict(*search(tmp_path / "calm", generations=5)[:2])
    found = verdict(one, settings)
    assert found.gain < calm.gain - 20 and not found.passed  # it counts as 0
    assert found.interval[1] - found.interval[0] > 20 * (calm.interval[1] - calm.interval[0])


def rows(challenger, start):
    def of(genome, values):
        return [
            Evaluation(0, 0, genome, confirmation_seed(0, [START], s), FINISHED, v, stage=CONFIRM) for s, v in values
        ]

    return [*of([0.5], enumerate(challenger)), *of([0.1], enumerate(start))]


def named(seeds):
    return {"confirmation": dict(challenger=[0.5], start=[0.1], role="centre", seeds=seeds, iterations=None)}


def test_the_text_tells_which_and_the_gain_with_its_interval():
    found = verdict(rows([28, 29, 30], [26, 27, 28]), named(3))
    # Student's t with 4 degrees of freedom, 2.776, times √(1/3 + 1/3)
    assert found.interval == pytest.approx((2 - 2.2668, 2 + 2.2668), abs=1e-3)
    assert verdict_text(found, "AP50") == (
        "challenger handed over: challenger (centre) − start +2.00 AP50, 95 % interval −0.27 to +4.27 "
        "(29.00 and 27.00 from 3 fresh seeds)"
    )
    more = verdict(rows([28, 29], [26, 27, 28]), named(2))
    assert verdict_text(more, "AP").endswith("(28.50 and 27.00 from 2 and 3 fresh seeds)")
    worse = verdict(rows([25], [26]), named(1))
    assert verdict_text(worse, "AP") == (
        "start handed over: challenger (centre) − start −1.00 AP (25.00 and 26.00 from 1 fresh seed)"
    )
    assert not verdict(rows([26, 26], [26, 26]), named(2)).passed  # no gain is none


@pytest.mark.parametrize("missing", [0, 3])
def test_there_is_no_verdict_before_all_seeds_have_ended(missing):
    found = rows([28, 29, 30], [26, 27, 28])
    assert verdict(found[:missing] + found[missing + 1 :], named(3)) is None
    cut_off = Evaluation(0, 0, [0.5], confirmation_seed(0, [START], 3), INTERRUPTED, 0.0, stage=CONFIRM)
    assert verdict([*found, cut_off], named(4)) is None and verdict([*found, cut_off], named(3)) is not None


@pytest.mark.parametrize("plan, least", [([3], 0.95), ([3, 6], 0.93), ([3, 5, 7, 10], 0.92)])
def test_who_adds_seeds_until_the_interval_leaves_0_out_is_not_fooled_more_often(plan, least):
    generator, missed = numpy.random.default_rng(0), 0
    for _ in range(2000):
        first, second = generator.normal(30, 1.5, (2, max(plan)))
        for looked, count in enumerate(plan, 1):
            gain = first[:count].mean() - second[:count].mean()
            if abs(gain) > half_width(first[:count], second[:count], 0.05 / looked):
                missed += 1
                break
    assert 1 - missed / 2000 > least


values = st.lists(st.floats(0, 60), min_size=2, max_size=6)


@given(values, values)
def test_the_interval_is_welchs(first, second):
    half = half_width(first, second)
    if numpy.var(first) + numpy.var(second) < 1e-4:  # where scipy loses digits
        assert half is None or half < 1
        return
    low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert half == pytest.approx((high - low) / 2, rel=1e-6)


def test_no_interval_without_a_spread():
    assert half_width([30.0], [20.0]) is None
    assert half_width([30.0, 30.0, 30.0], [29.5, 29.5, 29.5]) is None  # as where the seed is not used
    # One value has the other's noise: 12.706 (one degree of freedom) times √(0.5 + 0.5/2)
    assert half_width([30.0], [20.0, 21.0]) == pytest.approx(12.706 * math.sqrt(0.75), abs=1e-3)


@given(st.integers(0, SEEDS_FROM - 1), st.floats(0, 1), st.integers(0, MOST_SEEDS - 1))
def test_confirming_seeds_fit_numpys_and_are_of_one_search(seed, gene, number):
    found = confirmation_seed(seed, [[gene]], number)
    assert SEEDS_FROM <= found < 2**32
    assert found == confirmation_seed(seed, [rounded([gene])], 0) + number


def test_searches_that_begin_otherwise_confirm_on_other_seeds():
    begun = [(seed, [[0.01 * gene]]) for seed in range(10) for gene in range(50)]
    assert len({confirmation_seed(seed, initial, 0) for seed, initial in begun}) == len(begun)


@pytest.mark.parametrize("final_iterations", [None, 300])
def test_losses_that_no_generation_asked_for_are_trained_in_folders_of_their_own(tmp_path, final_iterations):
    tasks = []

    def kept(task):
        tasks.append(task)
        return noisy(task)

    search(tmp_path / "out", kept, algorithm="ppo", final_iterations=final_iterations)
    places = {(task.generation, task.position) for task in tasks if task.stage == CONFIRM}
    assert len(places) == 2  # the start has none that was asked for
    assert len({task.name for task in tasks}) == len(tasks)


def test_after_an_accepted_change_both_losses_are_confirmed_anew(tmp_path):
    search(tmp_path / "out", final_iterations=300)
    with Store(tmp_path / "out" / "search.db") as store:
        store.supersede()

    def better(task):
        outcome = noisy(task)
        outcome.fitness += 50
        return outcome

    evaluations, settings, _ = search(tmp_path / "out", better, final_iterations=300)
    found = verdict(evaluations, settings)
    assert {len(found.of_challenger), len(found.of_start)} == {3} and abs(found.gain) < 30
    assert min(e.fitness for e in [*found.of_challenger, *found.of_start]) > 40
    assert len(confirming(evaluations)) == 12 and handed_over(evaluations, settings).mean > 40
    assert ranked_candidates(evaluations)[0].final.mean > 40


def test_the_start_is_the_best_of_the_initial_losses_by_its_means():
    def proxy(genome, fitness, seed=0):
        return Evaluation(0, 0, genome, seed, FINISHED, fitness)

    done = [proxy([0.1], 30.0), proxy([0.1], 20.0, 1), proxy([0.2], 26.0), proxy([0.3], 40.0)]
    assert starting_loss([[0.1], [0.2]], done) == [0.2]
    assert starting_loss([[0.1000000001], [0.9]], done) == [0.1]  # as it was asked for
    assert starting_loss([[0.8], [0.9]], done) == [0.8]  # none was evaluated, as of ppo


@pytest.mark.parametrize("better", [True, False])
def test_loss_file_report_and_status_tell_which_and_the_gain(tmp_path, better):
    space = SearchSpace(("dense",), points=1, mode="shared")

    def proxy(task):
        outcome = noisy(task)
        if task.stage == CONFIRM and task.genome != rounded(space.identity()):
            outcome.fitness += 50 if better else -50
        return outcome

    with Store(tmp_path / "search.db") as store:
        algorithm = build_algorithm("ga", space.genes, 8, 1, [space.identity()])
        evolve(algorithm, proxy, InlineExecutor(), store, Schedule(5, 3, confirm=3))
        store.write_settings({"metric": "AP", "generations": 3, "planned": 22})
        write_results(tmp_path, store, space)
        evaluations, settings = store.evaluations(), store.settings()
    found = verdict(evaluations, settings)
    text = verdict_text(found, "AP")
    meta = json.loads((tmp_path / "best.json").read_text())["meta"]
    assert meta["confirmation"]["handed_over"] == ("challenger" if better else "start") == text.split()[0]
    assert meta["confirmation"]["gain"] == found.gain and meta["confirmation"]["interval_95"] == [*found.interval]
    assert meta["genome"] == (found.challenger if better else rounded(space.identity()))
    assert load_loss(tmp_path / "best.json") == space.decode(meta["genome"])
    assert f"confirmed    {text}" in status_text(evaluations, settings).splitlines()
    page = (tmp_path / "report.html").read_text()
    low, high = map(signed, found.interval)
    assert signed(found.gain) in page and f"95 % interval {low} to {high}" in page
    assert ("No gain over the start" in page) != better
