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

from paramap_d2.search.store import Store

KILLS = 20
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


def story(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return sorted(
            (e.stage, e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in store.evaluations()
        )


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


@pytest.mark.slow
@pytest.mark.parametrize("where", ["process", "ray"], indirect=True)
def test_killed_at_any_of_twenty_moments_it_ends_the_same(tmp_path, where):
    chance = random.Random(11)
    (tmp_path / "cut").mkdir()
    for kill in range(KILLS):
        search = start(tmp_path / "cut", where)
        told = int(search.stdout.readline())  # what the store held
        more = chance.randrange(5)
        for _ in range(more):
            told = int(search.stdout.readline() or pytest.fail(search.stderr.read()))
        time.sleep(chance.uniform(0, 0.08))
        search.send_signal(signal.SIGKILL)
        search.communicate()
        assert search.returncode == -signal.SIGKILL, f"kill {kill} came too late"
        with sqlite3.connect(tmp_path / "cut" / "search.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(story(tmp_path / "cut")) >= told
    last = start(tmp_path / "cut", where)
    _, error = last.communicate()
    assert last.returncode == 0, error
    wait_until_gone({int(pid) for pid in (tmp_path / "cut" / "pids").read_text().split()})

    (tmp_path / "whole").mkdir()
    killable_search.main(tmp_path / "whole", "inline")
    assert story(tmp_path / "cut") == story(tmp_path / "whole")
