import math

import pytest

from paramap_d2.search.status import duration, progress, ranked_candidates, status_text
from paramap_d2.search.store import Evaluation


def evaluation(number=1, generation=0, position=0, fitness=30.0, status="finished", genome=(0.5,), **more):
    return Evaluation(generation, position, list(genome), more.pop("seed", 0), status, fitness, id=number, **more)


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
    assert [(c.genome, c.mean) for c in ranking] == [([0.3], 38.5), ([0.2], 37.0), ([0.1], 35.0)]
    assert [c.first.id for c in ranking] == [3, 2, 1]
    assert ranking[0].standard_error == pytest.approx(0.5)  # |39 − 38| / 2
    assert ranking[1].standard_error is None
    assert ranking[2].standard_error == pytest.approx(math.sqrt(50) / math.sqrt(2))


def test_a_failed_seed_counts_zero_and_a_repeated_one_once():
    (candidate,) = ranked_candidates([evaluation(1, fitness=30.0), evaluation(2, fitness=0.0, status="failed", seed=1)])
    assert candidate.mean == 15.0 and candidate.standard_error == 15.0
    (candidate,) = ranked_candidates([evaluation(1, fitness=30.0), evaluation(2, fitness=32.0)])
    assert candidate.by_seed == [31.0] and candidate.standard_error is None


def test_equal_candidates_stand_in_the_order_of_asking():
    rows = [evaluation(1, 0, 3, genome=[0.3]), evaluation(2, 0, 1, genome=[0.1])]
    assert [c.genome for c in ranked_candidates(rows)] == [[0.1], [0.3]]


def test_metrics_are_told_only_where_all_have_them():
    both = [evaluation(1, metrics={"bbox/AP50": 50.0, "segm/AP50": 1.0}), evaluation(2, seed=1, metrics={"AP50": 60.0})]
    assert ranked_candidates(both)[0].mean_metric("AP50") == 55.0
    assert ranked_candidates(both)[0].mean_metric("AP75") is None
    assert ranked_candidates([both[0], evaluation(2, seed=1)])[0].mean_metric("AP50") is None


def test_progress_of_two_workers():
    settings = {"generations": 3, "population": 4, "elite": 1, "workers": 2}
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
    assert now.seconds_left == pytest.approx(200 / 4 * 6)


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
    settings = {"generations": 1, "population": 2}
    rows = [evaluation(1, 0, 0), evaluation(2, 0, 1), evaluation(3, 0, 1, seed=1)]
    now = progress(rows, settings)
    assert (now.done, now.planned) == (3, 3)


def test_nothing_yet():
    now = progress([], {"generations": 2, "population": 2})
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
    settings = {"generations": 5, "population": 2, "metric": "AP50", "workers": 1}
    assert status_text(rows, settings).splitlines() == [
        "evaluations  5 of 10 (50%): 2 finished, 3 failed",
        "generation   1, the last will be 4",
        "best so far  AP50 34.00 ± 1.00 (2 seeds), evaluation 1, generation 0",
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
