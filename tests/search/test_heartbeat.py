import json
import os
import socket
import time

import pytest

from paramap_d2.errors import NoResultError
from paramap_d2.search import heartbeat
from paramap_d2.search.heartbeat import Heartbeat
from paramap_d2.search.proxies.progress import TrainingProgress
from paramap_d2.search.proxies.proxy import Task
from paramap_d2.search.trainings import Running, SearchProgress


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    monkeypatch.setattr(heartbeat, "PAUSE", 0.01)


def status(folder):
    return json.loads((folder / "status.json").read_text())


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_says_who_runs_and_what(tmp_path):
    task = Task(2, 3, [0.25], 7, "final", iterations=300, attempt=2)
    with Heartbeat(tmp_path) as beat:
        first = status(tmp_path)
        assert (first["state"], first["host"], first["pid"]) == ("running", socket.gethostname(), os.getpid())
        beat.show(SearchProgress(2, 5, 11, 31.5, 4, (Running(task, 1, 1e9),)))
        until(lambda: status(tmp_path)["done"] == 5)
        now = status(tmp_path)
        assert (now["generation"], now["total"], now["best"]) == (2, 11, 31.5)
        assert now["running"] == [
            {
                "name": task.name,
                "worker": 1,
                "started": 1e9,
                "generation": 2,
                "position": 3,
                "genome": [0.25],
                "seed": 7,
                "stage": "final",
                "attempt": 2,
            }
        ]
        until(lambda: status(tmp_path)["heartbeat"] > now["heartbeat"])  # without anything new
    assert os.listdir(tmp_path) == ["status.json"]
    assert (status(tmp_path)["state"], status(tmp_path)["running"]) == ("done", [])


@pytest.mark.parametrize(
    "error, state, why",
    [
        (KeyboardInterrupt(), "interrupted", ""),
        (NoResultError("all failed"), "failed", "all failed"),
        (OSError(28, "no room"), "failed", "OSError: [Errno 28] no room"),
    ],
)
def test_it_says_how_a_search_ended(tmp_path, error, state, why):
    with pytest.raises(type(error)), Heartbeat(tmp_path):
        raise error
    assert (status(tmp_path)["state"], status(tmp_path)["why"]) == (state, why)


def test_an_end_on_time(tmp_path):
    with Heartbeat(tmp_path) as beat:
        beat.end("interrupted", "after 2 h")
    assert (status(tmp_path)["state"], status(tmp_path)["why"]) == ("interrupted", "after 2 h")


def test_what_a_killed_search_left_goes_when_the_next_begins(tmp_path):
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "g000_000_s0.json").touch()
    (tmp_path / "running" / ".g000_000_s0.json.99.part").touch()
    with Heartbeat(tmp_path):
        assert not list((tmp_path / "running").iterdir())


def test_a_folder_that_goes_away_is_no_end_of_a_search(tmp_path, caplog):
    folder = tmp_path / "out"
    folder.mkdir()
    with Heartbeat(folder) as beat:
        (folder / "running").rmdir()
        (folder / "status.json").unlink()
        folder.rmdir()
        beat.show(SearchProgress(0, 1, 2, None, 1))
        until(lambda: beat._failed)
    assert not folder.exists()


def test_a_training_tells_how_far_it_is_and_not_too_often(tmp_path):
    progress = TrainingProgress(tmp_path / "a.json")
    assert progress.due()
    progress.tell(3, 100, 0.5, [[2, 11.0]])
    assert not progress.due()
    found = json.loads((tmp_path / "a.json").read_text())
    assert found.pop("time") == pytest.approx(time.time(), abs=60)
    assert found == {"iteration": 3, "planned": 100, "loss": 0.5, "curve": [[2, 11.0]], "phase": "training"}
    progress.remove()
    assert not os.listdir(tmp_path)


def test_a_training_that_nobody_watches_or_cannot_tell(tmp_path):
    nobody = TrainingProgress(None)
    assert not nobody.due()
    nobody.tell(1, 2, None, [])
    nobody.remove()
    nowhere = TrainingProgress(tmp_path / "gone" / "a.json")
    nowhere.tell(1, 2, None, [])
    nowhere.remove()
    assert not os.listdir(tmp_path)
