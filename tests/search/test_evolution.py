import itertools

import fake_proxies
import pytest

from paramap_d2.losses import load_loss
from paramap_d2.search.evolution import evolve, generation_line, open_store, write_results
from paramap_d2.search.executors import InlineExecutor
from paramap_d2.search.genetic import GeneticAlgorithm
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import FINISHED, INTERRUPTED, Evaluation, Store, StoreError, best_evaluation

SPACE = SearchSpace(("dense",), points=1, mode="shared")


def algorithm():
    return GeneticAlgorithm(SPACE.genes, 6, seed=1, initial=[SPACE.identity()])


def search(folder, evaluate=fake_proxies.target_distance, generations=5, executor=None, **kwargs):
    with Store(folder / "search.db") as store:
        return evolve(
            algorithm(), evaluate, executor or InlineExecutor(), store, generations=generations, seed=9, **kwargs
        )


def story(evaluations):
    return [(e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in evaluations]


def test_every_evaluation_is_in_the_store(tmp_path):
    evaluations = search(tmp_path)
    assert len(evaluations) == 6 + 4 * 5
    with Store(tmp_path / "search.db", readonly=True) as store:
        assert sorted(story(store.evaluations())) == sorted(story(evaluations))
    assert {e.status for e in evaluations} == {FINISHED, "diverged"}
    assert all(e.fitness == 0 and e.error for e in evaluations if e.status != FINISHED)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 5, 6, 7, 13, 25])
def test_a_search_cut_off_anywhere_resumes_to_the_same_end(tmp_path, after):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = search(tmp_path / "whole")
    calls = itertools.count()

    def cut_off(task):
        if next(calls) == after:
            raise Killed
        return fake_proxies.target_distance(task)

    with pytest.raises(Killed):
        search(tmp_path / "cut", cut_off)
    made = []

    def counted(task):
        made.append(task)
        return fake_proxies.target_distance(task)

    assert story(search(tmp_path / "cut", counted)) == story(whole)
    assert len(made) == len(whole) - after  # nothing is made again


def test_a_finished_search_can_be_given_more_generations(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    search(tmp_path / "a", generations=2)
    assert story(search(tmp_path / "a", generations=4)) == story(search(tmp_path / "b", generations=4))


def test_interrupted_evaluations_are_made_again(tmp_path):
    first = algorithm().ask()[0]
    with Store(tmp_path / "search.db") as store:
        store.add(Evaluation(0, 0, first, 9, INTERRUPTED, 0.0))
    evaluations = search(tmp_path)
    assert evaluations[0].status in (FINISHED, "diverged") and evaluations[0].genome == first


def test_results_do_not_depend_on_the_order_of_ending(tmp_path):
    class Backwards(InlineExecutor):
        def run(self, evaluate, tasks):
            yield from reversed(list(super().run(evaluate, tasks)))

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert story(search(tmp_path / "a")) == story(search(tmp_path / "b", executor=Backwards()))


def test_progress_and_generations_are_told(tmp_path):
    told, lines = [], []
    search(
        tmp_path,
        generations=2,
        on_progress=lambda p: told.append((p.generation, p.done, p.total)),
        on_generation=lambda g, current: lines.append(generation_line(g, current, best_evaluation(current), "AP")),
    )
    assert told == [(0, n, 6) for n in range(7)] + [(1, n, 5) for n in range(6)]
    assert lines[0].startswith("generation 0: 6 evaluations, AP best ")


def test_all_failed_is_not_the_end(tmp_path):
    from paramap_d2.search.proxy import Outcome

    evaluations = search(tmp_path, lambda task: Outcome("failed", error="made up"), generations=3)
    assert len(evaluations) == 16 and best_evaluation(evaluations) is None
    with Store(tmp_path / "search.db") as store:
        write_results(tmp_path, store, SPACE)
    assert (tmp_path / "report.html").exists() and not (tmp_path / "best.json").exists()
    assert "6 failed" in generation_line(0, evaluations[:6], None, "AP")


def test_results(tmp_path):
    evaluations = search(tmp_path)
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"seed": 1, "metric": "AP"})
        write_results(tmp_path, store, SPACE)
    best = best_evaluation(evaluations)
    assert load_loss(tmp_path / "best.json") == SPACE.decode(best.genome)
    for name in ("functions.png", "history.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.part"))


SETTINGS = {"seed": 1, "config": {"SOLVER.MAX_ITER": "100", "NEW": "1"}, "space": SPACE.describe()}


def test_store_of_a_folder(tmp_path):
    open_store(tmp_path / "new", SETTINGS, resume=False).close()
    open_store(tmp_path / "new", SETTINGS, resume=True).close()
    without_new = {**SETTINGS, "config": {"SOLVER.MAX_ITER": "100"}}
    open_store(tmp_path / "new", without_new, resume=True).close()


@pytest.mark.parametrize(
    "change, resume, message",
    [
        ({}, False, "already holds this search; add --resume"),
        ({"seed": 2}, True, "another search: seed was 1 there and is 2 now"),
        ({"config": {"SOLVER.MAX_ITER": "50"}}, True, "another search: SOLVER.MAX_ITER was 100 there and is 50 now"),
        ({"space": {**SPACE.describe(), "points": 4}}, False, "another search: space.points was 1 there and is 4"),
    ],
)
def test_another_search_is_refused_and_left_alone(tmp_path, change, resume, message):
    open_store(tmp_path, SETTINGS, resume=False).close()
    before = (tmp_path / "search.db").read_bytes()
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path, {**SETTINGS, **change}, resume)
    assert (tmp_path / "search.db").read_bytes() == before


def test_nothing_to_resume(tmp_path):
    with pytest.raises(StoreError, match="no search to resume"):
        open_store(tmp_path / "none", SETTINGS, resume=True)
    assert not (tmp_path / "none").exists()
