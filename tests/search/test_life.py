import json
import os
import re
import socket
import time

import pytest

from paramap_d2.search.life import Life, life_text, next_commands, overview, read_life, training_text
from paramap_d2.search.lock import only_one
from paramap_d2.search.store import Evaluation, Store

ELSEWHERE = "another.host"


def evaluation(position, status="finished", stage="search", **more):
    return Evaluation(0, position, [0.5], 0, status, 30.0, stage=stage, **more)


def write_status(folder, **more):
    content = {"state": "running", "why": "", "host": socket.gethostname(), "pid": 42, "begun": time.time() - 65}
    content |= {"heartbeat": time.time(), "generation": 1, "running": []}
    (folder / "status.json").write_text(json.dumps({**content, **more}))


def state(folder, evaluations=(), **settings):
    return read_life(folder, evaluations, settings).state


def test_a_search_that_has_its_lock_runs(tmp_path):
    with only_one(tmp_path, resume=False):
        assert state(tmp_path) == "running"  # of an older version
        write_status(tmp_path, heartbeat=0.0)  # its disk is full
        assert state(tmp_path) == "running"
        write_status(tmp_path, state="interrupted", pid=41)
        assert read_life(tmp_path, (), {}) == Life("running")  # resumed just now: nothing of the run before
    write_status(tmp_path)
    assert state(tmp_path) == "dead"


@pytest.mark.parametrize("said", ["done", "interrupted", "failed"])
def test_a_search_that_ended_has_said_how(tmp_path, said):
    write_status(tmp_path, state=said, why="so", host=ELSEWHERE)
    assert state(tmp_path) == said
    assert life_text(read_life(tmp_path, (), {}), now=time.time() + 120).startswith(f"{said} 2 min ago: so")


def test_on_another_host_the_heartbeat_tells(tmp_path):
    write_status(tmp_path, host=ELSEWHERE)
    assert life_text(read_life(tmp_path, (), {})) == "running on another.host (process 42) for 1 min"
    write_status(tmp_path, boot="of another machine with the name of this")
    assert state(tmp_path) == "running"
    write_status(tmp_path, host=ELSEWHERE, heartbeat=time.time() - 3600)
    assert life_text(read_life(tmp_path, (), {})).endswith("went down; last seen 1 h 00 min ago")
    (tmp_path / ".lock").mkdir()  # nobody can know of the lock
    write_status(tmp_path)
    assert state(tmp_path) == "running"


def test_a_search_of_an_older_version(tmp_path):
    assert state(tmp_path, planned=2) == "dead"
    assert state(tmp_path, [evaluation(0), evaluation(1, "interrupted")], planned=2) == "interrupted"
    both = [evaluation(0), evaluation(1)]
    assert state(tmp_path, both, planned=2) == "done"
    named = {"challenger": [0.5], "start": [0.25], "role": "centre", "seeds": 1, "iterations": None}
    confirming = {"planned": 2, "options": {"confirm": 1}, "confirmation": named}
    assert state(tmp_path, both, **confirming) == "dead"
    rows = [evaluation(0, stage="confirm"), Evaluation(0, 0, [0.25], 0, "finished", 1.0, stage="confirm")]
    assert state(tmp_path, [*both, *rows], **confirming) == "done"


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_status_that_cannot_be_read(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    assert state(tmp_path) == "dead"


def training(folder, progress, started=1000.0):
    told = {"name": "g001_002_s0", "worker": 0, "started": started, "generation": 1, "position": 2, "genome": [0.5]}
    write_status(folder, host=ELSEWHERE, running=[{**told, "seed": 0, "stage": "search", "attempt": 1}])
    (folder / "running").mkdir(exist_ok=True)
    (folder / "running" / "g001_002_s0.json").write_text(progress)
    (found,) = read_life(folder, (), {}).trainings
    return training_text(found, "AP", now=started + 90)


def test_what_runs_and_how_far_it_is(tmp_path):
    told = {"iteration": 30, "planned": 120, "loss": 0.8123, "curve": [], "phase": "training", "time": 1001.0}
    assert training(tmp_path, "{") == "generation 1, loss 2, starting, for 2 min"
    text = "generation 1, loss 2, iteration 30 of 120, loss 0.812"
    assert training(tmp_path, json.dumps(told)) == f"{text}, for 2 min"
    assert training(tmp_path, json.dumps({**told, "curve": [[30, 12.5]]})) == f"{text}, AP 12.50 after 30, for 2 min"
    told["phase"] = "evaluating"
    assert "iteration 30 of 120, evaluating" in training(tmp_path, json.dumps(told))
    # An attempt before was killed and left it.
    assert training(tmp_path, json.dumps({**told, "time": 999.0})) == "generation 1, loss 2, starting, for 2 min"


def test_what_to_type_next(tmp_path):
    folder = tmp_path / "a search"
    folder.mkdir()
    settings = {"config_file": "my config.yaml", "opts": ["SOLVER.MAX_ITER", "9"]}
    resume = f"paramap evolve --resume --output-dir '{folder}'"
    assert next_commands(Life("running"), folder, settings) == [f"paramap status '{folder}' --serve"]
    for ended in ("dead", "interrupted", "failed"):
        assert next_commands(Life(ended), folder, settings) == [resume]
    assert next_commands(Life("done"), folder, settings) == [resume]  # no loss reached anything
    (folder / "best.json").touch()
    (command,) = next_commands(Life("done"), folder, settings)
    assert command.startswith("paramap train --config-file 'my config.yaml' MODEL.PARAM_AP.LOSS ")


def test_names_of_first_losses_are_told_with_what_runs(tmp_path):
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"initial": [[0.5]], "options": {"init": ["retinanet-coco"]}, "metric": "AP50"})
    training(tmp_path, "{", started=time.time())
    before = sorted(os.listdir(tmp_path))
    life, text = overview(tmp_path)
    lines = text.splitlines()
    assert life.alive
    assert lines[0] == "search       running on another.host (process 42) for 1 min"
    assert re.search(r"^worker 0     generation 1, loss 2 \(retinanet-coco\), starting, for \d+ s$", text, re.MULTILINE)
    assert lines[-1] == f"next         paramap status {tmp_path} --serve"
    assert sorted(os.listdir(tmp_path)) == before
