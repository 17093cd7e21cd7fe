import io
import json
import socket
import time

import pytest
from rich.console import Console

from paramap_d2.search import watch as module
from paramap_d2.search.store import Evaluation, Store
from paramap_d2.search.watch import watch


@pytest.fixture
def search(tmp_path):
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"planned": 8})
    say(tmp_path, "running")
    return tmp_path


def say(folder, state):
    told = {"state": state, "why": "", "host": f"not {socket.gethostname()}", "pid": 1, "begun": time.time()}
    (folder / "status.json").write_text(json.dumps({**told, "heartbeat": time.time(), "running": []}))


@pytest.mark.parametrize("terminal", [True, False])
def test_until_the_search_has_ended(search, monkeypatch, terminal):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            with Store(search / "search.db") as store:
                store.add(Evaluation(0, 0, [0.5], 0, "finished", 31.5))
        if len(looks) == 3:
            (search / "search.db").rename(search / "away")
        if len(looks) == 4:
            (search / "away").rename(search / "search.db")
            say(search, "done")

    monkeypatch.setattr(module.time, "sleep", sleep)
    output = io.StringIO()
    watch(search, Console(file=output, force_terminal=terminal, width=120), every=5.0)
    assert looks == [5.0] * 4
    shown = output.getvalue()
    assert "evaluations  0 of 8" in shown and "evaluations  1 of 8" in shown
    assert "best so far  AP 31.50" in shown and "search       done" in shown
    assert terminal or shown.count("evaluations  0 of 8") == 1
