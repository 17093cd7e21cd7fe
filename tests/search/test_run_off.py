"""The run-off in which an algorithm's centre and the best seen meet before the confirmation."""

import fake_proxies
import pytest
from test_confirmation import START, confirming, noisy, search, story

from paramap_d2.search.candidates import ranked_candidates
from paramap_d2.search.confirmation import (
    MOST_SEEDS,
    RUN_OFF_SEEDS,
    SEEDS_FROM,
    confirmation_seed,
    handed_over,
    rivals,
    verdict,
    winner,
)
from paramap_d2.search.evolution import Schedule
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.status import progress
from paramap_d2.search.store import FINAL, FINISHED, PROXIES, RUN_OFF, Evaluation, Store


def of_run_off(evaluations):
    return [e for e in evaluations if e.stage == RUN_OFF]


def best_seen(evaluations):
    return ranked_candidates(e for e in evaluations if e.stage in PROXIES)[0].genome


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("algorithm", ["ga", "cmaes", "ppo", "random"])
def test_the_centre_challenges_unless_the_best_seen_beats_it_in_every_training(tmp_path, algorithm, repeats):
    evaluations, settings, centre = search(tmp_path / "out", algorithm=algorithm, repeats=repeats)
    made = of_run_off(evaluations)
    best = best_seen(evaluations)
    assert best != centre and [e.genome for e in made] == [centre, best] * RUN_OFF_SEEDS
    assert {e.planned for e in made} == {100}
    lowest = min(e.fitness for e in made if e.genome == best)
    highest = max(e.fitness for e in made if e.genome == centre)
    found = verdict(evaluations, settings)
    assert found.challenger == (best if lowest > highest else centre)
    assert found.role == ("best proxy" if lowest > highest else "centre")


def test_its_seeds_are_its_own(tmp_path):
    evaluations, *_ = search(tmp_path / "out", repeats=3)
    seeds = [{e.seed for e in found} for found in (of_run_off(evaluations), confirming(evaluations))]
    others = {e.seed for e in evaluations if e.stage in PROXIES}
    assert len(seeds[0]) == RUN_OFF_SEEDS and not seeds[0] & seeds[1] and not seeds[0] & others
    assert max(others) < SEEDS_FROM
    # Nor has a confirmation from as many seeds as there can be, of this search or the next.
    assert min(seeds[0]) == confirmation_seed(5, [START], MOST_SEEDS - 1) + 1
    assert (max(seeds[0]) + 1 - SEEDS_FROM) % (MOST_SEEDS + RUN_OFF_SEEDS) == 0


@pytest.mark.parametrize(("height", "role"), [(20.0, "best proxy"), (60.0, "centre")])
def test_a_centre_is_handed_over_only_if_it_is_above_what_was_seen(tmp_path, height, role):
    def proxy(task):
        asked.extend([task.genome] * (task.stage in PROXIES))
        return Outcome(FINISHED, 10.0 if task.genome == START else 50.0 if task.genome in asked else height, planned=9)

    asked = []
    evaluations, settings, _ = search(tmp_path / "out", proxy, "random")
    assert verdict(evaluations, settings).role == role
    assert handed_over(evaluations, settings).mean == max(height, 50.0)


def test_there_is_none_without_two_to_meet(tmp_path):
    def best_at_start(task):
        return Outcome(FINISHED, 50.0 if task.genome == START else fake_proxies.target_distance(task).fitness / 10)

    evaluations, settings, centre = search(tmp_path / "start", best_at_start)
    assert best_seen(evaluations) == START != centre
    found = verdict(evaluations, settings)  # the centre is to beat the start itself
    assert found.challenger == centre and found.role == "centre" and not of_run_off(evaluations)
    assert not of_run_off(search(tmp_path / "none", confirm=0)[0])  # nothing hangs on it


def test_who_meets():
    centre, best, start = [0.1], [0.2], [0.3]
    assert rivals(centre, best, start) == [centre, best]
    assert rivals(None, best, start) == rivals(best, best, start) == rivals(start, best, start) == [best]
    assert rivals(centre, start, start) == [centre]
    assert rivals(None, start, start) == rivals(start, start, start) == []


@pytest.mark.parametrize(
    ("of_centre", "of_best", "won"),
    [
        ((10, 12), (13, 14), 1),
        ((10, 13), (12, 20), 0),  # the better mean may be luck
        ((10, 12), (12, 12), 0),
        ((12, 12), (10, 20), 0),
        ((10, None), (11, 9), 0),
        ((10, None), (11, None), 1),
        ((None, None), (1, 1), 1),
        ((10, 10), (None, None), 0),
        ((None, None), (None, None), 1),  # its proxy at least was good
    ],
)
def test_who_wins(of_centre, of_best, won):
    def rows(fitnesses):
        return [
            Evaluation(0, 0, [0.5], seed, FINISHED if f is not None else "failed", f or 0.0, stage=RUN_OFF)
            for seed, f in enumerate(fitnesses)
        ]

    assert winner(rows(of_centre), rows(of_best)) == won


def test_what_the_machine_failed_leaves_the_other_as_challenger(tmp_path):
    def centre_fails(task):
        unknown = task.stage == RUN_OFF and task.genome not in known
        known.extend([task.genome] * (task.stage in PROXIES))
        return Outcome("failed", error="killed") if unknown else noisy(task)

    known = []
    evaluations, settings, centre = search(tmp_path / "centre", centre_fails)
    found = verdict(evaluations, settings)
    assert found.challenger == best_seen(evaluations) != centre and found.passed

    def both(task):
        return Outcome("failed", error="killed") if task.stage == RUN_OFF else noisy(task)

    evaluations, settings, _ = search(tmp_path / "both", both)
    assert verdict(evaluations, settings).challenger == best_seen(evaluations)


@pytest.mark.parametrize("at", range(6, 11))  # of the last ten trainings
def test_cut_off_in_its_midst_it_goes_on_to_the_same_end(tmp_path, at):
    def with_a_bad_centre(task):
        asked.extend([task.genome] * (task.stage in PROXIES))
        return noisy(task) if task.genome in asked else Outcome(FINISHED, 3.0, planned=task.iterations)

    asked = []
    whole, settings, _ = search(tmp_path / "whole", with_a_bad_centre)
    made = []

    class Killed(BaseException):
        pass

    def cut_off(task):
        if len(made) == len(whole) - at:
            raise Killed
        made.append(task)
        return with_a_bad_centre(task)

    with pytest.raises(Killed):
        search(tmp_path / "cut", cut_off)
    with Store(tmp_path / "cut" / "search.db") as store:
        cut, of_cut = store.evaluations(), {"generations": 4, "planned": 29, **store.settings()}
    best = handed_over(cut, of_cut)  # what there is until it goes on: the highest seen, whatever the centre has
    assert best.genome == best_seen(cut) and best.mean == max(e.fitness for e in cut)
    again, settings_again, _ = search(tmp_path / "cut", with_a_bad_centre)
    assert story(again) == story(whole) and settings_again["confirmation"] == settings["confirmation"]


def test_what_is_to_come_is_told_while_it_is_held(tmp_path):
    """Of a search that ended without one; and when longer finals take its place."""
    proxies = len(search(tmp_path / "out", confirm=0)[0])

    class Killed(BaseException):
        pass

    def second_dies(task):
        if task.stage == RUN_OFF and task.seed % 1000 == 999:
            raise Killed
        return noisy(task)

    with pytest.raises(Killed):
        search(tmp_path / "out", second_dies)
    with Store(tmp_path / "out" / "search.db") as store:
        evaluations, kept = store.evaluations(), store.settings() | {"generations": 4, "planned": proxies}
    assert len(evaluations) == proxies + 2
    now = progress(evaluations, kept | {"later": Schedule(5, 4, confirm=3).later})
    assert (now.done, now.planned) == (proxies + 2, proxies + 4 + 6)
    longer = Schedule(5, 4, confirm=3, final_iterations=300).later
    assert progress(evaluations, kept | {"later": longer}).planned == proxies + 2 + 3 + 6


def test_a_search_that_goes_on_holds_another(tmp_path):
    first, *_ = search(tmp_path / "out", generations=2)
    evaluations, settings, centre = search(tmp_path / "out", generations=5)
    asked = {tuple(e.genome) for e in of_run_off(evaluations)[len(of_run_off(first)) :]}
    assert tuple(centre) in asked
    assert tuple(verdict(evaluations, settings).challenger) in {tuple(centre), tuple(best_seen(evaluations))}
    once, of_once, _ = search(tmp_path / "once", generations=5)
    assert verdict(once, of_once).challenger == verdict(evaluations, settings).challenger


def test_longer_finals_take_its_place(tmp_path):
    search(tmp_path / "out")
    evaluations, settings, _ = search(tmp_path / "out", final_iterations=300)
    found = verdict(evaluations, settings)
    finals = [e for e in evaluations if e.stage == FINAL]
    assert len(finals) == 3 and found.challenger == max(finals, key=lambda e: e.fitness).genome
    assert found.role == "best finalist"


def test_it_is_counted_from_the_start(tmp_path):
    assert Schedule(0, 1, confirm=3).later == {"confirm": (6, None), "run-off": (4, None)}
    assert Schedule(0, 1, confirm=0).later == {"confirm": (0, None)}
    assert Schedule(0, 1, confirm=3, final_iterations=9).later == {"confirm": (6, 9), "final": (3, 9)}
