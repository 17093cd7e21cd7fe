import signal
import threading
import time
from dataclasses import replace

import fake_proxies
import pytest
from test_trainings import proxy, rows, search

from paramap_d2.search.candidates import ranked_candidates
from paramap_d2.search.deadline import Deadline, TimeUp
from paramap_d2.search.store import FINISHED, INTERRUPTED, STOPPED, Evaluation


def evaluations(seconds, status=FINISHED, iterations=100):
    more = {"iterations": iterations, "planned": 100}
    return [Evaluation(0, 0, [0.5], 0, status, 1.0, seconds=s, **more) for s in seconds]


@pytest.mark.parametrize(
    "seconds, proxies, last, workers, enough",
    [
        (100, 8, [], 2, True),  # four rounds of 10 s
        (39, 8, [], 2, False),
        (41, 7, [], 2, True),
        (59, 1, [(1, 500)], 2, False),  # one of 10 s, and five times its length
        (61, 1, [(1, 500)], 2, True),
        (39, 2, [(6, None)], 2, False),
        (41, 2, [(6, None)], 2, True),
        (None, 10**6, [(9, 9)], 1, True),
    ],
)
def test_time_for_more(seconds, proxies, last, workers, enough):
    deadline = Deadline(seconds)
    assert deadline.leaves(evaluations([9, 10, 500]), proxies, *last, workers=workers) == enough
    assert deadline.passed_over != enough
    assert Deadline(0.001).leaves([], 99, workers=1)  # nothing is known of how long they take


def test_the_last_trainings_are_whole_however_many_proxies_were_ended_early():
    ended_early = evaluations([5.0] * 5, STOPPED, iterations=25)
    for known in ([*ended_early, *evaluations([20.0])], ended_early):
        assert not Deadline(64).leaves(known, 1, (3, None), workers=1)  # 5 s, and 20 s each
        assert Deadline(66).leaves(known, 1, (3, None), workers=1)


def test_it_is_raised_in_what_runs_and_is_gone_afterwards():
    with pytest.raises(TimeUp), Deadline(0.05).raised():
        time.sleep(60)
    with Deadline(60).raised():
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert isinstance(TimeUp(), KeyboardInterrupt)  # executors end what runs and record it, as for Ctrl-C


def test_elsewhere_than_in_the_main_thread_it_is_not_raised():
    seen = []

    def run():
        with Deadline(0.01).raised():
            time.sleep(0.05)
        seen.append("whole")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == ["whole"]


def test_a_search_begins_no_generation_that_it_has_no_time_for(tmp_path):
    class OfTwo:
        """A deadline after two generations."""

        def leaves(self, evaluations, generation, *last, workers):
            assert (generation, last) == (5, ((4, None), (4, None)))
            return len(evaluations) < 11

    def timed(task):
        outcome = fake_proxies.target_distance(task)
        outcome.seconds = 1.0
        return outcome

    found = search(tmp_path, timed, deadline=OfTwo(), confirm=2)
    assert {e.generation for e in found if e.stage == "search"} == {0, 1}
    assert [e.stage for e in found].count("confirm") == 4  # the last trainings are made
    assert [e.stage for e in found].count("run-off") == 4
    assert INTERRUPTED not in {e.status for e in found}
    assert len(search(tmp_path, timed, confirm=0)) == 21


def test_finals_after_a_generation_that_is_not_gone_on_with_decide(tmp_path):
    class Over:
        passed_over = True

        def leaves(self, *args, **options):
            return False

    def cut(task):
        if task.generation == 1 and task.position == 2:
            raise KeyboardInterrupt
        return proxy(task)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "out", cut)

    def lucky(task):  # the order of the finals is not that of the proxies
        return replace(proxy(task), fitness=100.0 - proxy(task).fitness) if task.iterations else proxy(task)

    done = search(tmp_path / "out", lucky, deadline=Over(), final_iterations=50)
    finals = [e for e in done if e.stage == "final"]
    assert len([e for e in done if e.generation == 1 and e.stage == "search"]) == 2 and len(finals) == 3
    (best, *_) = ranked_candidates(rows(tmp_path / "out"))
    assert best.final is not None and best.final.mean == max(e.fitness for e in finals)
    assert best.genome == ranked_candidates(done)[0].genome
