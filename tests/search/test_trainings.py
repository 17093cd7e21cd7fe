"""What fails by the machine's fault is tried again; what the algorithm was told stays told."""

import itertools
import sqlite3
from dataclasses import replace

import fake_proxies
import pytest

from paramap_d2.errors import NoResultError
from paramap_d2.search.algorithms.genetic import GeneticAlgorithm
from paramap_d2.search.candidates import best_candidate, noise, ranked_candidates
from paramap_d2.search.evolution import Schedule, evolve
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.store import FINISHED, MACHINE, Store, StoreError

GENES = 4
KILLED = Outcome("failed", error="killed", cause="killed")


def proxy(task):
    """As the distance, a little different from each seed."""
    outcome = fake_proxies.target_distance(task)
    if outcome.status == FINISHED:
        outcome.fitness += task.seed % 7 * task.genome[1]
    return outcome


def search(folder, evaluate=proxy, generations=4, seed=1, on_generation=lambda end: None, deadline=None, **schedule):
    folder.mkdir(exist_ok=True)
    algorithm = GeneticAlgorithm(GENES, 6, seed, initial=[[0.5] * GENES])
    with Store(folder / "search.db") as store:
        options = Schedule(9, generations, **schedule)
        told = {"on_generation": on_generation, "deadline": deadline}
        return evolve(algorithm, evaluate, InlineExecutor(), store, options, **told)


def rows(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return store.evaluations()


def told(folder):
    with Store(folder / "search.db") as store:
        return store.told()


def story(evaluations):
    return [(e.stage, e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in evaluations]


def failing(where, attempts):
    """The machine fails the first attempts at some (generation, position)."""

    def evaluate(task):
        broken = (task.generation, task.position) in where and task.attempt <= attempts
        return replace(KILLED) if broken else proxy(task)

    return evaluate


@pytest.mark.parametrize("cause", MACHINE)
def test_what_the_machine_fails_is_tried_again_and_leaves_no_trace_but_its_rows(tmp_path, cause):
    def evaluate(task):
        if task.position == 2 and task.attempt < 3:
            return Outcome("failed", error="made up", cause=cause)
        return proxy(task)

    found = search(tmp_path / "out", evaluate, repeats=2)
    assert story(found) == story(search(tmp_path / "well", repeats=2))
    assert told(tmp_path / "out") == told(tmp_path / "well")
    tries = {}
    for e in rows(tmp_path / "out"):
        tries.setdefault((e.generation, e.position, e.seed), []).append((e.attempt, e.status == "failed"))
    for (_, position, _), list_ in tries.items():
        assert list_ == ([(1, True), (2, True), (3, False)] if position == 2 else [(1, False)])


def test_when_retries_run_out_the_lowest_is_told_and_no_mean_has_it(tmp_path):
    found = search(tmp_path, failing({(0, 3)}, 99), generations=2, repeats=2)
    lost = next(e for e in found if (e.generation, e.position) == (0, 3))
    assert lost.by_machine and lost.attempt == 3 and [e.attempt for e in rows(tmp_path) if e.by_machine] == [1, 2, 3]
    fitnesses = told(tmp_path)[0].fitnesses
    others = [f for place, f in enumerate(fitnesses) if place != 3]
    assert fitnesses[3] == min(others) > 0 or 0 in others
    assert lost.genome not in [c.genome for c in ranked_candidates(found)]


def test_a_survivors_seed_that_the_machine_fails_is_in_no_mean_and_no_noise(tmp_path):
    def evaluate(task):
        return replace(KILLED) if task.seed == 10 else proxy(task)

    found = search(tmp_path / "out", evaluate, repeats=2)
    assert any(e.by_machine for e in found)
    assert noise(ranked_candidates(found)) is None
    once = search(tmp_path / "once", proxy)
    assert best_candidate(found).mean == best_candidate(once).mean


def test_what_was_told_stays_told_when_the_machine_is_mended(tmp_path):
    broken = failing({(0, 3), (1, 1)}, 99)
    first = search(tmp_path / "out", broken, generations=3)
    before = told(tmp_path / "out")
    again = search(tmp_path / "out", proxy, generations=5)
    assert story(again)[: len(first)] == story(first)
    assert {g: told(tmp_path / "out")[g] for g in before} == before
    # As a search that was never resumed.
    assert story(again) == story(search(tmp_path / "whole", broken, generations=5))


class Stopped(BaseException):
    pass


def test_an_unfinished_generation_is_tried_again_on_resume(tmp_path):
    def broken(task):
        if task.generation == 2:
            if task.attempt == 3 and task.position == 4:
                raise Stopped
            return replace(KILLED) if task.position > 2 else proxy(task)
        return proxy(task)

    with pytest.raises(Stopped):
        search(tmp_path / "out", broken)
    attempts = []

    def mended(task):
        attempts.append((task.generation, task.position, task.attempt))
        return proxy(task)

    assert story(search(tmp_path / "out", mended)) == story(search(tmp_path / "whole"))
    # The third attempt at place 3 had failed, that at place 4 was cut off.
    assert attempts[:2] == [(2, 3, 4), (2, 4, 3)]


@pytest.mark.parametrize(
    "failure", [KILLED, Outcome("diverged", error="not finite"), Outcome("no detections", error="finds nothing")]
)
def test_a_first_generation_that_fails_for_one_reason_is_the_end(tmp_path, failure):
    ended = []
    with pytest.raises(NoResultError, match=f"all 6 proxies of generation 0 failed.*: {failure.error}"):
        search(tmp_path, lambda task: replace(failure), on_generation=ended.append)
    assert {e.generation for e in rows(tmp_path)} == {0} and told(tmp_path) == {} and not ended


def test_losses_that_fail_each_in_its_way_are_not_the_end(tmp_path):
    def evaluate(task):
        return Outcome("diverged" if task.position % 2 else "no detections")

    assert len(search(tmp_path, evaluate, generations=3)) == 16


def test_a_machine_that_fails_a_whole_later_generation_is_the_end_until_it_is_mended(tmp_path):
    full = Outcome("failed", error="OSError: No space left on device", cause="disk")

    def evaluate(task):
        return proxy(task) if task.generation < 2 else replace(full)

    with pytest.raises(NoResultError, match="all 5 proxies of generation 2 failed, tried 3 times: OSError: No space"):
        search(tmp_path / "out", evaluate)
    assert story(search(tmp_path / "out")) == story(search(tmp_path / "whole"))


def test_retries_are_bounded_by_the_schedule(tmp_path):
    search(tmp_path, failing({(0, 0)}, 99), generations=1, retries=0)
    assert [e.attempt for e in rows(tmp_path) if e.by_machine] == [1]


def test_more_repeats_later_leave_the_generations_before_as_they_are(tmp_path):
    first = search(tmp_path / "out", generations=3)
    more = search(tmp_path / "out", generations=5, repeats=3)
    assert story(more)[: len(first)] == story(first)
    repeats = [e for e in more if e.stage == "repeat"]
    assert repeats and rows(tmp_path / "out")[len(first)].generation == 3
    # Asked for anew, with nothing left to train.
    assert story(search(tmp_path / "out", None, generations=5, repeats=3)) == story(more)


def test_who_watches_is_told_what_is_new(tmp_path):
    ends = []
    search(tmp_path, generations=2, on_generation=ends.append)
    search(tmp_path, generations=3, on_generation=ends.append)
    assert [(end.number, end.new) for end in ends] == [(0, True), (1, True), (0, False), (1, False), (2, True)]


def test_an_algorithm_that_asks_for_something_else_is_told(tmp_path):
    search(tmp_path, generations=2)
    with pytest.raises(StoreError, match="asks for other losses in generation 0 than it did"):
        search(tmp_path, generations=3, seed=2)


def as_version_2(path):
    """The store as the version before would have left it."""
    with sqlite3.connect(path) as db:
        for column in ("cause", "attempt", "versions", "round"):
            db.execute(f"ALTER TABLE evaluations DROP COLUMN {column}")
        db.execute("DROP TABLE told")
        db.execute("UPDATE settings SET value = '2' WHERE key = 'schema'")
    db.close()


def test_a_store_of_version_2_goes_on_as_it_would_have(tmp_path):
    whole = search(tmp_path / "whole", repeats=3, generations=6)
    then = told(tmp_path / "whole")
    search(tmp_path / "old", repeats=3, generations=4)
    as_version_2(tmp_path / "old" / "search.db")
    assert told(tmp_path / "old") == {g: then[g] for g in range(3)}
    as_version_2(tmp_path / "old" / "search.db")
    assert story(search(tmp_path / "old", repeats=3, generations=6)) == story(whole)


def test_what_version_2_told_of_a_failed_proxy_stays_told(tmp_path):
    calls = itertools.count()

    def with_zero(task):  # what it took every failure for
        return Outcome("diverged") if next(calls) == 2 else proxy(task)

    search(tmp_path, with_zero, generations=2)
    before = told(tmp_path)[0]
    with sqlite3.connect(tmp_path / "search.db") as db:
        db.execute("UPDATE evaluations SET status = 'failed' WHERE id = 3")
    db.close()
    as_version_2(tmp_path / "search.db")
    assert told(tmp_path) == {0: before} and before.fitnesses[2] == 0
    assert rows(tmp_path)[2].by_machine
    assert len(search(tmp_path, generations=3)) == 16


class Logging:
    """A proxy that is killed; its executor knows neither how long it was to be nor what it printed."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, task):
        self.log(task).write_text("iteration 40\nlast words\n")
        return replace(KILLED) if task.position == 1 and task.attempt == 1 else proxy(task)

    def log(self, task):
        return self.folder / f"log_{task.generation}_{task.position}_{task.attempt}.txt"


def test_a_killed_proxys_row_has_the_end_of_its_log(tmp_path):
    search(tmp_path, Logging(tmp_path), generations=1)
    assert {e.log for e in rows(tmp_path) if e.by_machine} == {"iteration 40\nlast words\n"}
    assert {e.log for e in rows(tmp_path) if e.status == FINISHED} == {""}
