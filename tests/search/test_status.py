import pytest

from paramap_d2.search.status import all_planned, duration, progress, status_text
from paramap_d2.search.store import Evaluation


def evaluation(number=1, generation=0, position=0, fitness=30.0, status="finished", genome=(0.5,), **more):
    return Evaluation(generation, position, list(genome), more.pop("seed", 0), status, fitness, id=number, **more)


def test_progress_of_two_workers():
    settings = {"generations": 3, "planned": 4 + 2 * 3, "workers": 2}
    rows = [
        evaluation(1, 0, 0, started=1000.0, seconds=100.0, worker=0),
        evaluation(2, 0, 1, started=1000.0, seconds=60.0, worker=1),
        evaluation(3, 0, 2, started=1060.0, seconds=40.0, worker=1, status="failed", fitness=0.0),
        evaluation(4, 0, 3, started=1100.0, seconds=100.0, worker=0),
        evaluation(5, 1, 0, started=1100.0, seconds=10.0, worker=1, status="interrupted", fitness=0.0),
    ]
    now = progress(rows, settings)
    assert (now.done, now.planned, now.finished, now.interrupted, now.generation) == (4, 4 + 2 * 3, 3, 1, 1)
    assert now.failures == {"failed": 1}
    assert (now.compute_seconds, now.wall_seconds) == (310.0, 200.0)
    assert now.utilisation == pytest.approx(310 / 400)
    assert progress(rows, {**settings, "workers": 4, "population": 2}).utilisation == pytest.approx(310 / 800)
    assert now.seconds_left == pytest.approx(200 / 4 * 6)


def test_what_follows_the_proxies_is_known_from_the_start():
    """Two proxies of 100 iterations, two finals and two confirmations of 1,000."""
    settings = {"generations": 1, "planned": 2, "workers": 1, "later": {"confirm": [2, 1000], "final": [2, 1000]}}
    named = {"challenger": [0.6], "start": [0.1], "seeds": 1, "iterations": 1000, "role": "best finalist"}
    rows = [evaluation(n, 0, n - 1, started=100.0 * n, seconds=100.0, planned=100) for n in (1, 2)]

    def told(decided=None):
        now = progress(rows, settings if decided is None else {**settings, "decided": 2, "confirmation": decided})
        return now.done, now.planned, now.seconds_left and round(now.seconds_left)

    assert progress(rows[:1], settings).seconds_left == pytest.approx(100 * 41)
    assert told() == (2, 6, 4000)
    final = {"stage": "final", "round": 2, "planned": 1000, "seconds": 1000.0}
    rows.append(evaluation(3, started=300.0, **final))
    assert told() == (3, 6, 3000)
    rows.append(evaluation(4, started=1300.0, genome=[0.6], **final))
    assert told() == told(named) == (4, 6, 2000)
    confirm = {"stage": "confirm", "planned": 1000, "seconds": 1000.0, "seed": 9}
    rows.append(evaluation(5, started=2300.0, genome=[0.6], **confirm))
    assert told(named) == (5, 6, 1000)
    rows.append(evaluation(6, started=3300.0, genome=[0.1], **confirm))
    assert told(named) == (6, 6, 0)
    del rows[4:]
    assert told({**named, "challenger": [0.1]}) == (4, 4, 0)  # nothing to confirm
    settings["planned"] = 4  # it goes on, with finals and confirmations of its own
    rows.append(evaluation(5, 1, 0, started=2300.0, seconds=100.0, planned=100))
    assert told(named) == (5, 6 + 4, 4100)


def test_a_pause_is_no_time_of_the_search():
    rows = [
        evaluation(1, 0, 0, started=1000.0, seconds=50.0),
        evaluation(2, 0, 1, started=1060.0, seconds=50.0),  # ten seconds of overhead count
        evaluation(3, 0, 2, started=90000.0, seconds=50.0),  # resumed the next day
    ]
    now = progress(rows, {"workers": 1})
    assert now.wall_seconds == 110.0 + 50.0
    assert now.utilisation == pytest.approx(150 / 160)
    assert now.planned is None and now.seconds_left is None


def test_repeats_come_on_top_of_the_plan():
    settings = {"generations": 1, "planned": 2}
    rows = [evaluation(1, 0, 0), evaluation(2, 0, 1), evaluation(3, 0, 1, seed=1, stage="repeat")]
    rows.append(evaluation(4, 0, 1, stage="final"))
    now = progress(rows, settings)
    assert (now.done, now.planned) == (4, 4)
    now = progress(rows, {"planned": 10, "evaluations": 10})  # which counts repeats, but no final trainings
    assert (now.done, now.planned) == (4, 11)


def test_tries_of_one_training_are_one():
    tries = [evaluation(6 + n, 0, 5, 0.0, "failed", attempt=1 + n, cause="killed") for n in range(3)]
    rows = [*(evaluation(1 + n, 0, n) for n in range(5)), *tries]
    now = progress(rows, {"planned": 8})
    assert (now.done, now.planned, now.failures) == (6, 8, {"failed": 3})
    assert status_text(rows, {"planned": 8}).startswith("evaluations  6 of 8 (75%): 5 finished, 1 failed")
    rows[-1] = evaluation(8, 0, 5, attempt=3)  # made good
    assert status_text(rows, {"planned": 8}).startswith("evaluations  6 of 8 (75%): 6 finished, 0 failed")


@pytest.mark.parametrize(
    "limit, beside, trainings",
    [
        (None, {}, 16),
        (None, {"repeat": 3, "enqueued": 1, "final": 2, "confirm": 6, "search": 16}, 16 + 4 + 8),
        (18, {"repeat": 3, "enqueued": 1, "final": 2}, 18 + 2),
        (20, {"repeat": 3}, 19),
    ],
)
def test_all_that_is_planned(limit, beside, trainings):
    assert all_planned(16, limit, beside) == trainings


def test_what_early_stopping_saved():
    rows = [
        evaluation(1, iterations=100, planned=100),
        evaluation(2, 0, 1, status="stopped", iterations=25, planned=100),
        evaluation(3, 0, 2, status="failed", iterations=7, planned=100),  # not its merit
    ]
    now = progress(rows, {})
    assert (now.stopped, now.saved) == (1, 75 / 200)
    assert "1 failed, 1 stopped early (38% of the iterations saved)" in status_text(rows, {})


def test_nothing_yet():
    now = progress([], {"generations": 2, "planned": 4})
    assert (now.done, now.planned, now.generation, now.utilisation, now.seconds_left) == (0, 4, None, None, None)
    text = status_text([], {})
    assert "0: 0 finished, 0 failed" in text and "no evaluation has finished" in text


def test_the_text_names_what_matters():
    rows = [
        evaluation(1, 0, 0, 33.0, genome=[0.1], seconds=60.0, started=1000.0),
        evaluation(2, 0, 1, 35.0, genome=[0.1], seconds=60.0, started=1060.0, seed=1),
        evaluation(3, 1, 0, 0.0, "diverged", genome=[0.2], error="loss is NaN", seconds=60.0, started=1120.0),
        evaluation(4, 1, 1, 0.0, "diverged", genome=[0.3], error="loss is NaN", seconds=60.0, started=1180.0),
        evaluation(5, 1, 2, 0.0, "failed", genome=[0.4], seconds=60.0, started=1240.0),
    ]
    settings = {"generations": 5, "planned": 10, "metric": "AP50", "workers": 1}
    assert status_text(rows, settings).splitlines() == [
        "evaluations  5 of 10 (50%): 2 finished, 3 failed",
        "generation   1, the last will be 4",
        "best so far  AP50 34.00 (2 seeds), evaluation 1, generation 0",
        "compute      5 min in 5 min: workers 100% busy",
        "time left    about 5 min",
        "diverged     2 × loss is NaN",
        "failed       1 × no reason given",
    ]


def test_interrupted_ones_are_told():
    rows = [evaluation(1), evaluation(2, 0, 1, 0.0, "interrupted")]
    assert status_text(rows, {}).startswith("evaluations  1: 1 finished, 0 failed; 1 interrupted\n")


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 00 min"), (3600, "1 h 00 min"), (11100, "3 h 05 min")]
    + [(200000, "2 d 07 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
