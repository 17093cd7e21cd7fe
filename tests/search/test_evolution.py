import itertools
import json
from random import Random

import fake_proxies
import pytest

from paramap_d2.errors import NoResultError
from paramap_d2.losses import load_loss
from paramap_d2.search.algorithms.genetic import GeneticAlgorithm
from paramap_d2.search.candidates import best_candidate, ranked_candidates
from paramap_d2.search.evolution import Schedule, evolve, generation_line, write_results
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import FINAL, FINISHED, INTERRUPTED, REPEAT, SEARCH, STOPPED, Evaluation, Store

SPACE = SearchSpace(("dense",), points=1, mode="shared")


def algorithm():
    return GeneticAlgorithm(SPACE.genes, 6, seed=1, initial=[SPACE.identity()])


def search(folder, evaluate=fake_proxies.target_distance, generations=5, executor=None, told=None, **schedule):
    folder.mkdir(exist_ok=True)
    with Store(folder / "search.db") as store:
        return evolve(
            algorithm(),
            evaluate,
            executor or InlineExecutor(),
            store,
            Schedule(9, generations, **schedule),
            **(told or {}),
        )


def story(evaluations):
    return [(e.stage, e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in evaluations]


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
        def run(self, evaluate, tasks, on_start):
            yield from reversed(list(super().run(evaluate, tasks)))

    assert story(search(tmp_path / "a")) == story(search(tmp_path / "b", executor=Backwards()))


def test_progress_and_generations_are_told(tmp_path):
    told, lines = [], []
    search(
        tmp_path,
        generations=2,
        told={
            "on_progress": told.append,
            "on_generation": lambda end: lines.append(generation_line(end.number, end.evaluations, end.best, "AP")),
        },
    )
    ends = [(p.generation, p.done, p.total) for p in told if not p.running]
    assert ends == [(0, n, 11) for n in range(7)] + [(1, n, 11) for n in range(6, 12)]
    begun = [(p.done, r.task.generation, r.task.position, r.worker) for p in told for r in p.running]
    assert begun == [(n, 0, n, 0) for n in range(6)] + [(6 + n, 1, n, 0) for n in range(5)]
    assert lines[0].startswith("generation 0: 6 evaluations, AP best ")


def test_results_of_a_search_without_a_finished_proxy(tmp_path):
    with pytest.raises(NoResultError):
        search(tmp_path, lambda task: Outcome("failed", error="made up", cause="exception"))
    with Store(tmp_path / "search.db") as store:
        write_results(tmp_path, store, SPACE)
        evaluations = store.evaluations()
    assert best_candidate(evaluations) is None
    assert (tmp_path / "report.html").exists() and not (tmp_path / "best.json").exists()
    assert "6 failed" in generation_line(0, evaluations[:6], None, "AP")


def test_results(tmp_path):
    evaluations = search(tmp_path)
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"seed": 1, "metric": "AP"})
        write_results(tmp_path, store, SPACE)
    best = best_candidate(evaluations)
    assert load_loss(tmp_path / "best.json") == SPACE.decode(best.genome)
    for name in ("functions.png", "history.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.part"))


def noisy(task):
    """As the distance, with noise that hangs on the seed, and a curve; longer trainings reach twice as much."""
    outcome = fake_proxies.target_distance(task)
    if outcome.status != FINISHED:
        return outcome
    outcome.fitness += Random(f"{task.genome} {task.seed}").gauss(0, 3)
    outcome.planned = outcome.iterations = task.iterations or 100
    outcome.fitness *= 2 if task.iterations else 1
    for share, least in task.checkpoints:
        reached = share * outcome.fitness
        outcome.curve.append([share * outcome.planned, reached])
        if least is not None and reached < least:
            outcome.status, outcome.fitness, outcome.iterations = STOPPED, reached, int(share * outcome.planned)
            break
    return outcome


EVERYTHING = {"repeats": 4, "stopping": "median", "final_iterations": 300}


@pytest.mark.parametrize("after", [0, 3, 6, 8, 15, 30, 36])
def test_with_everything_on_a_search_still_resumes_to_the_same_end(tmp_path, after):
    whole = search(tmp_path / "whole", noisy, **EVERYTHING)
    assert {e.stage for e in whole} == {SEARCH, REPEAT, FINAL} and STOPPED in {e.status for e in whole}
    assert len(whole) > 36
    calls = itertools.count()

    def cut_off(task):
        if next(calls) == after:
            raise Killed
        return noisy(task)

    with pytest.raises(Killed):
        search(tmp_path / "cut", cut_off, **EVERYTHING)
    assert story(search(tmp_path / "cut", noisy, **EVERYTHING)) == story(whole)


def test_with_everything_on_the_order_of_ending_does_not_matter(tmp_path):
    class Backwards(InlineExecutor):
        def run(self, evaluate, tasks, on_start):
            yield from reversed(list(super().run(evaluate, tasks)))

    there = search(tmp_path / "a", noisy, **EVERYTHING)
    assert story(search(tmp_path / "b", noisy, executor=Backwards(), **EVERYTHING)) == story(there)


def test_repeats_take_seeds_of_their_own_and_the_algorithm_hears_the_means(tmp_path):
    heard = []

    class Listening:
        def __init__(self):
            self.algorithm = algorithm()
            self.planned, self.centre = self.algorithm.planned, self.algorithm.centre
            self.initial = self.algorithm.initial

        def ask(self):
            self.asked = self.algorithm.ask()
            return self.asked

        def tell(self, fitnesses, revised):
            heard.append((dict(zip(map(tuple, self.asked), fitnesses, strict=True)), dict(revised)))
            self.algorithm.tell(fitnesses, revised)

    with Store(tmp_path / "search.db") as store:
        found = evolve(Listening(), noisy, InlineExecutor(), store, Schedule(9, 4, repeats=3))
    trained = [(tuple(e.genome), e.seed) for e in found]
    assert len(set(trained)) == len(trained) and {e.seed for e in found} == {9, 10, 11}
    assert all(e.seed == 9 for e in found if e.stage == SEARCH) and all(e.seed > 9 for e in found if e.stage == REPEAT)
    best = best_candidate(found)
    assert len(best.by_seed) >= 2 and best.mean == max(c.mean for c in ranked_candidates(found))
    # Every mean of several seeds was heard last as it is at the end.
    last = {}
    for fitnesses, revised in heard:
        last.update(fitnesses)
        last.update(revised)
    for candidate in ranked_candidates(found):
        assert last[tuple(candidate.genome)] == candidate.mean


def test_repeats_keep_a_lucky_run_from_winning(tmp_path):
    lucky = algorithm().ask()[3]

    def luck(task):
        outcome = fake_proxies.target_distance(task)
        if task.genome == lucky:
            return Outcome(FINISHED, 100.0 if task.seed == 9 else 1.0)
        return outcome

    assert best_candidate(search(tmp_path / "once", luck)).genome == lucky
    assert best_candidate(search(tmp_path / "again", luck, repeats=2)).genome != lucky


def test_finalists_are_trained_longer_and_decide(tmp_path):
    slow_start = algorithm().ask()[2]

    def proxy(task):
        fitness = fake_proxies.target_distance(task).fitness
        if task.genome == slow_start:
            fitness = 300.0 if task.iterations else 99.0  # a good proxy, and a far better full training
        return Outcome(FINISHED, fitness, planned=task.iterations or 100)

    found = search(tmp_path / "out", proxy, final_iterations=500, finalists=3, repeats=2)
    finals = [e for e in found if e.stage == FINAL]
    assert {e.planned for e in finals} == {500} and len({tuple(e.genome) for e in finals}) == 3
    assert best_candidate(found).genome == slow_start
    with Store(tmp_path / "out" / "search.db") as store:
        write_results(tmp_path / "out", store, SPACE)
    meta = json.loads((tmp_path / "out" / "best.json").read_text())["meta"]
    assert (meta["fitness"], meta["seeds"], meta["final_iterations"]) == (300.0, 2, 500)
    # They can be added to a search that has ended, and ended again after more generations.
    story_of = story(search(tmp_path / "late", proxy, repeats=2))
    late = search(tmp_path / "late", proxy, final_iterations=500, finalists=3, repeats=2)
    assert story(late) == story(found) and story(late)[: len(story_of)] == story_of
    search(tmp_path / "late", proxy, generations=6, final_iterations=500, repeats=2)


@pytest.mark.parametrize("better", [True, False])
def test_finals_decide_among_the_losses_of_their_round(tmp_path, better):
    def proxy(task):
        later = 10 * task.generation if better or task.generation < 2 else -50
        fitness = fake_proxies.target_distance(task).fitness + later
        return Outcome(FINISHED, 200 - fitness if task.iterations else fitness, planned=task.iterations or 100)

    def stored():
        with Store(tmp_path / "out" / "search.db", readonly=True) as store:
            return store.evaluations()

    finals = {"final_iterations": 500, "finalists": 3}
    search(tmp_path / "out", proxy, generations=2, **finals)
    first = best_candidate(stored())
    assert first.final and {e.round for e in stored() if e.stage == FINAL} == {6 + 5}
    search(tmp_path / "out", proxy, generations=4)  # goes on, and ends without finals
    best = best_candidate(stored())
    assert best.final is None and best.first.generation == (3 if better else 1)
    search(tmp_path / "out", proxy, generations=4, **finals)
    trained = [(e.genome, e.round) for e in stored() if e.stage == FINAL]
    finalists = [c for c in ranked_candidates(stored()) if c.final]
    assert len(finalists) == 3 and {c.final.first.round for c in finalists} == {6 + 3 * 5}
    if better:  # the best final training of all is of another round
        assert len(trained) == 6 and first.genome not in [c.genome for c in finalists]
    else:  # finalists once more without another training
        assert len(trained) < 6 and best_candidate(stored()).final
        assert len(trained) == len({tuple(genome) for genome, _ in trained})


def test_repeats_within_a_budget_are_not_counted_beside_it(tmp_path):
    told = []
    search(tmp_path, generations=None, evaluations=20, repeats=3, told={"on_progress": told.append})
    assert max(now.total for now in told) == 20
    assert (told[-1].done, told[-1].left) == (20, 0)


def test_what_comes_after_the_generations_is_counted_from_the_start_and_by_its_length(tmp_path):
    def proxy(task):
        return Outcome(FINISHED, fake_proxies.target_distance(task).fitness, planned=task.iterations or 100)

    told = []
    more = {"final_iterations": 500, "finalists": 2, "confirm": 3}
    search(tmp_path / "out", proxy, generations=3, told={"on_progress": told.append}, **more)
    proxies = 6 + 2 * 5
    assert told[0].total == proxies + 2 + 6 and told[0].left == proxies + 2 + 6  # no proxy has told its length yet
    second = next(now for now in told if now.generation == 1)
    assert second.left == pytest.approx(10 + 5 * (2 + 6)) and second.trained == 6
    by_stage = {stage: [now for now in told if now.stage == stage] for stage in (SEARCH, FINAL, "confirm")}
    assert by_stage[FINAL][0].left == 5 * 8 and by_stage["confirm"][0].left == 5 * 6
    last = told[-1]
    assert (last.done, last.total, last.left) == (proxies + 8, proxies + 8, 0) and last.trained == proxies + 5 * 8
    again = []
    search(tmp_path / "out", proxy, generations=3, told={"on_progress": again.append}, **more)
    assert {now.trained for now in again} == {0.0} and again[-1].left == 0


@pytest.mark.parametrize("budget", [1, 6, 7, 9, 14])
def test_a_budget_of_evaluations_counts_repeats_and_is_kept(tmp_path, budget):
    found = search(tmp_path / "out", noisy, generations=None, evaluations=budget, repeats=3)
    assert len(found) == budget
    more = search(tmp_path / "out", noisy, generations=None, evaluations=20, repeats=3)
    assert sorted(story(more)) == sorted(story(search(tmp_path / "new", noisy, None, evaluations=20, repeats=3)))


def test_early_stopping_spares_iterations_and_changes_no_other_training(tmp_path):
    found = search(tmp_path / "out", noisy, generations=8, stopping="halving")
    stopped = [e for e in found if e.status == STOPPED]
    assert stopped and not any(e.generation == 0 for e in stopped)
    assert all(e.iterations < e.planned and e.fitness == e.curve[-1][1] for e in stopped)
    whole = {tuple(e.genome): e.fitness for e in search(tmp_path / "whole", noisy, generations=8)}
    for e in found:
        if e.generation <= 1 and e.status == FINISHED:
            assert e.fitness == whole[tuple(e.genome)]


class Interrupting(InlineExecutor):
    """Ctrl-C while the fourth task runs."""

    def run(self, evaluate, tasks, on_start):
        for place, outcome in super().run(evaluate, tasks):
            if place == 3:
                yield place, Outcome(INTERRUPTED, seconds=1.0)
                raise KeyboardInterrupt
            yield place, outcome


def test_an_interruption_is_recorded_and_made_good(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "out", executor=Interrupting())
    with Store(tmp_path / "out" / "search.db") as store:
        assert [e.status for e in store.evaluations()].count(INTERRUPTED) == 1
        assert len(store.evaluations()) == 4
    assert story(search(tmp_path / "out")) == story(search(tmp_path / "whole"))


def test_an_interruption_that_strikes_between_evaluations_reaches_the_executor(tmp_path):
    class Telling(InlineExecutor):
        """Two tasks at a time: the second runs on while the first is told."""

        def run(self, evaluate, tasks, on_start):
            for place in range(0, len(tasks), 2):
                try:
                    yield place, evaluate(tasks[place])
                    yield place + 1, evaluate(tasks[place + 1])
                except KeyboardInterrupt:
                    yield place + 1, Outcome(INTERRUPTED)
                    raise

    def ctrl_c(now):
        if now.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "out", executor=Telling(), told={"on_progress": ctrl_c})
    with Store(tmp_path / "out" / "search.db") as store:
        assert [e.position for e in store.evaluations()] == [0, 1, 2, 3]
        assert [e.status for e in store.evaluations()][-1] == INTERRUPTED
    assert story(search(tmp_path / "out")) == story(search(tmp_path / "whole"))


def test_finalists_that_are_killed_count_in_no_mean_and_are_not_tried_for_ever(tmp_path):
    made = []

    def proxy(task):
        made.append(task)
        if task.iterations and task.seed > 9:
            # As an executor says it, which knows no iterations.
            return Outcome("failed", error="killed by SIGKILL", cause="killed")
        return fake_proxies.target_distance(task)

    more = {"final_iterations": 500, "finalists": 2, "repeats": 3, "retries": 1}
    found = search(tmp_path / "out", proxy, **more)
    finals = [e for e in found if e.stage == FINAL]
    assert {e.planned for e in finals} == {500} and "failed" in {e.status for e in finals}
    best = best_candidate(found).final
    assert len(best.by_seed) == 1 and best.seeds == {9, 10, 11}
    attempts = [(t.seed, t.attempt) for t in made if t.iterations and t.genome == best.genome]
    assert attempts == [(9, 1), (10, 1), (10, 2), (11, 1), (11, 2)]
