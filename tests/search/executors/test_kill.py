"""A search that is killed at any moment loses nothing that it has told of, and ends as if it had not been."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import killable_search
import pytest

from paramap_d2.search.confirmation import verdict
from paramap_d2.search.store import CONFIRM, FINAL, Store

KILLS = int(os.environ.get("PARAMAP_KILLS", 6))
"""Each costs the start of a search and of its workers; a third of them fall on the final and confirming trainings."""

HERE = Path(__file__).parents[1]


@pytest.fixture
def where(request):
    """The executor's name and, for Ray, the address of a cluster: starting one for every search takes long."""
    if request.param != "ray":
        yield [request.param]
        return
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
        yield ["ray", cluster.address]
        cluster.shutdown()


def start(folder, where):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, str(HERE / "killable_search.py"), str(folder), *where]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def in_order(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return [
            (e.stage, e.generation, e.position, e.genome, e.seed, e.status, e.fitness, e.round)
            for e in store.evaluations()
        ]


def story(folder):
    return sorted(in_order(folder))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    for _ in range(600):
        if not any(map(alive, pids)):
            return
        time.sleep(0.1)
    raise AssertionError(f"still running: {[pid for pid in pids if alive(pid)]}")


def moments(evaluations, chance):
    """After how many of them to kill: a third of the times of the later stages, which are few."""
    last = [place for place, (stage, *_) in enumerate(evaluations) if stage in (FINAL, CONFIRM)]
    late = chance.sample(last[:-2], KILLS // 3)  # of the last two none may be left to wait for
    return sorted([*chance.sample(range(last[0]), KILLS - KILLS // 3), *late])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["process", "ray"], indirect=True)
def test_killed_at_any_moment_it_ends_the_same(tmp_path, where):
    (tmp_path / "whole").mkdir()
    killable_search.main(tmp_path / "whole", "inline")
    whole = story(tmp_path / "whole")
    chance = random.Random(11)
    (tmp_path / "cut").mkdir()
    for moment in moments(in_order(tmp_path / "whole"), chance):
        search = start(tmp_path / "cut", where)
        told = -1
        while told < moment:
            told = int(search.stdout.readline() or pytest.fail(search.stderr.read()))
        time.sleep(chance.uniform(0, 0.08))
        search.send_signal(signal.SIGKILL)
        search.communicate()
        assert search.returncode == -signal.SIGKILL, f"the kill after {moment} came too late"
        with sqlite3.connect(tmp_path / "cut" / "search.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(story(tmp_path / "cut")) >= told
    last = start(tmp_path / "cut", where)
    _, error = last.communicate()
    assert last.returncode == 0, error
    wait_until_gone({int(pid) for pid in (tmp_path / "cut" / "pids").read_text().split()})
    assert story(tmp_path / "cut") == whole
    with Store(tmp_path / "cut" / "search.db", readonly=True) as store:
        found = verdict(store.evaluations(), store.settings())
    assert found is not None and len(found.of_challenger) == len(found.of_start) == 3
