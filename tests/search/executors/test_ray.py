import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_proxies
import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.executors.ray import RayExecutor
from paramap_d2.search.proxies.proxy import Task
from paramap_d2.search.store import FINISHED, INTERRUPTED

pytest.importorskip("ray")
import psutil  # noqa: E402  comes with Ray

pytestmark = pytest.mark.slow  # Ray takes seconds to start, and so does each worker


def tasks(count):
    return [Task(0, place, [place / 10, 0.5], 0) for place in range(count)]


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_end(pids):
    """Whether they do so, of themselves, within a minute."""
    for _ in range(1200):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def files(folder, count):
    """The names in a folder, once there are so many."""
    for _ in range(2400):
        names = [path.name for path in folder.iterdir()]
        if len(names) >= count:
            return names
        time.sleep(0.05)
    raise AssertionError(f"{names} instead of {count}")


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        store = 100 * 2**20
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": store})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def executor(cluster):
    made = []

    def make(workers, **kwargs):
        made.append(RayExecutor(workers, address=cluster.address, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_outcomes_as_inline_whatever_proxies_do(executor, tmp_path, monkeypatch):
    monkeypatch.setenv("PARAMAP_DATASETS", "elsewhere")

    def outcomes(runner):
        found = dict(runner.run(fake_proxies.slow_first, tasks(8)))
        return [(place, found[place].status, found[place].fitness) for place in sorted(found)]

    # A third worker finds no room on two processors; its start holds nothing up.
    runner = executor(3, timeout=6.0)
    assert outcomes(runner) == outcomes(InlineExecutor())

    found = dict(runner.run(fake_proxies.misbehave, tasks(6)))
    for place in (0, 1):
        assert found[place].error == "the worker died (its process was killed or crashed)"
    assert found[2].error == "exceeded the time limit of 6 s"
    assert found[3].error == "RuntimeError: made up"
    assert all((found[place].status, found[place].fitness) == ("failed", 0.0) for place in range(4))
    assert [found[place].cause for place in range(4)] == ["killed", "killed", "time", "exception"]
    assert found[5].fitness == fake_proxies.target_distance(tasks(6)[5]).fitness

    runner.timeout = None
    found = dict(runner.run(fake_proxies.about_the_process, tasks(6)))
    assert {outcome.metrics["threads"] for outcome in found.values()} == {1}
    assert {outcome.worker for outcome in found.values()} <= {0, 1, 2}
    # Workers live on from one call to the next.
    again = dict(runner.run(fake_proxies.about_the_process, tasks(6)))
    assert {o.metrics["pid"] for o in again.values()} <= {o.metrics["pid"] for o in found.values()}
    assert dict(runner.run(fake_proxies.environment, tasks(1)))[0].error == f"elsewhere 1 {os.getcwd()}"


def test_a_search_says_what_it_waits_for_and_workers_know_the_variables_that_are_named(executor, monkeypatch, caplog):
    import ray

    monkeypatch.setenv("A_USERS_TOKEN", "secret")
    monkeypatch.setenv("ANOTHER", "stays here")
    monkeypatch.setattr("paramap_d2.search.executors.ray.WAIT", 0.5)
    runner = executor(1, environment=["A_USERS_TOKEN"])

    class Holder:
        def holds(self):
            return True

    full = ray.remote(num_cpus=2)(Holder).remote()
    assert ray.get(full.holds.remote())
    said = threading.Event()

    def make_room():
        said.wait(60)
        ray.kill(full)

    class Heard(logging.Handler):
        def emit(self, record):
            if "waiting for Ray to have room for a worker" in record.getMessage():
                said.set()

    search = logging.getLogger("paramap_d2.search")
    handler = Heard()
    search.addHandler(handler)
    threading.Thread(target=make_room, daemon=True).start()
    try:
        with caplog.at_level(logging.INFO, "paramap_d2.search"):
            found = dict(runner.run(fake_proxies.a_users_variables, tasks(2)))
    finally:
        search.removeHandler(handler)
    assert said.is_set() and caplog.text.count("waiting for Ray") == 1
    assert {outcome.error for outcome in found.values()} == {"secret None"}


def test_a_worker_that_dies_costs_its_task_alone_and_another_takes_its_place(executor, tmp_path):
    runner = executor(2)
    found = dict(runner.run(fake_proxies.Dying(tmp_path, 1), tasks(3)))
    assert (found[1].status, found[1].cause) == ("failed", "killed")
    assert [found[place].fitness for place in (0, 2)] == [
        fake_proxies.target_distance(tasks(3)[place]).fitness for place in (0, 2)
    ]
    again = dict(runner.run(fake_proxies.Dying(tmp_path, 1), tasks(3)))
    assert again[1].fitness == fake_proxies.target_distance(tasks(2)[1]).fitness


def test_interrupted_or_beyond_its_time_a_worker_ends_with_all_it_started(executor, tmp_path):
    interrupted, late = tmp_path / "interrupted", tmp_path / "late"
    interrupted.mkdir(), late.mkdir()
    runner = executor(2)

    def interrupt():
        files(interrupted, 4)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for place, outcome in runner.run(fake_proxies.Leaking(interrupted, hanging=0), tasks(5)):
            seen.append((place, outcome.status, outcome.worker))
    assert {(place, status) for place, status, _ in seen} == {(0, INTERRUPTED), (1, INTERRUPTED)}
    assert {worker for *_, worker in seen} == {0, 1}
    assert all_end([int(name) for name in files(interrupted, 4)])

    runner.timeout = 4.0
    found = dict(runner.run(fake_proxies.Leaking(late, hanging=1), tasks(2)))
    assert (found[0].status, found[1].error) == (FINISHED, "exceeded the time limit of 4 s")
    runner.close()
    assert all_end([int(name) for name in files(late, 3)])  # one worker may have taken both tasks


def test_a_machine_that_is_lost_costs_only_what_ran_on_it(cluster, executor, tmp_path):
    extra = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    runner = executor(2, cpus=2)  # one on each machine

    def lose_machine():
        pids = [int(name.partition("_")[2]) for name in files(tmp_path, 2)]
        cluster.remove_node(extra, allow_graceful=False)
        while all(alive(pid) for pid in pids):  # a worker takes a moment to miss its machine
            time.sleep(0.05)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=lose_machine, daemon=True)
    thread.start()
    found = dict(runner.run(fake_proxies.Awaiting(tmp_path), tasks(2)))
    thread.join()
    assert sorted(found[place].status for place in range(2)) == ["failed", FINISHED]
    (lost,) = [outcome for outcome in found.values() if outcome.status == "failed"]
    assert lost.cause == "killed" and "the worker died" in lost.error
    again = dict(runner.run(fake_proxies.Awaiting(tmp_path), tasks(2)))
    assert {outcome.status for outcome in again.values()} == {FINISHED}


SEARCH = """
import sys
sys.path[:0] = {path}
import fake_proxies
from paramap_d2.search.proxies.proxy import Task
from paramap_d2.search.executors.ray import RayExecutor
executor = RayExecutor(2, address={address!r})
try:
    for place, outcome in executor.run(fake_proxies.Leaking(sys.argv[1], hanging=0), [Task(0, 0, [0.5], 0)] * 3):
        print(place, outcome.status, flush=True)
except KeyboardInterrupt:
    executor.close()
    print("closed")
"""


@pytest.mark.parametrize("where, end", [("local", "kill"), ("local", "Ctrl-C"), ("cluster", "kill")])
def test_nothing_outlives_the_search(request, tmp_path, where, end):
    address = None if where == "local" else request.getfixturevalue("cluster").address
    script, folder = tmp_path / "a_search.py", tmp_path / "pids"
    folder.mkdir()
    script.write_text(SEARCH.format(path=[str(Path(fake_proxies.__file__).parent), os.getcwd()], address=address))
    # A process group of its own, as a terminal gives it one: Ctrl-C goes to all of the group.
    search = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with search:
        pids = [int(name) for name in files(folder, 4)]
        pids += [process.pid for process in psutil.Process(search.pid).children(recursive=True)]
        if end == "kill":
            search.kill()
        else:
            os.killpg(search.pid, signal.SIGINT)
        printed = search.stdout.read()
    if end == "Ctrl-C":
        assert sorted(printed.split("\n")) == ["", "0 interrupted", "1 interrupted", "closed"]
    else:
        assert printed == ""
    assert len(pids) >= (6 if where == "local" else 4)  # local: Ray's own too
    assert all_end(pids)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"workers": 0}, "workers must be"),
        ({"workers": 1, "timeout": -1.0}, "timeout must be"),
        ({"workers": 1, "cpus": 0}, "--cpus-per-proxy must be"),
        (
            {"workers": 1, "gpus": 1.5},
            "--gpus-per-proxy must be a fraction of one GPU or a whole number of them, not 1.5",
        ),
        ({"workers": 1, "gpus": -1}, "--gpus-per-proxy must be a fraction"),
        ({"workers": 1, "gpus": float("nan")}, "--gpus-per-proxy must be a fraction"),
        ({"workers": 1, "gpus": float("inf")}, "--gpus-per-proxy must be a fraction"),
        ({"workers": 1, "address": "127.0.0.1:1"}, "cannot reach a Ray cluster at 127.0.0.1:1: ConnectionRefusedError"),
        ({"workers": 1, "environment": ["NOT_THERE"]}, "--env NOT_THERE: there is no such environment variable"),
        ({"workers": 1, "address": "nonsense"}, "cannot reach a Ray cluster at nonsense: ValueError"),
    ],
)
def test_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        RayExecutor(**options)


def test_a_proxy_that_no_machine_has_room_for(cluster):
    with pytest.raises(UserError, match="no machine of Ray has 2 CPUs and 1 GPUs for a proxy; they have 2 CPUs"):
        RayExecutor(1, address=cluster.address, cpus=2, gpus=1)
    RayExecutor(1, address=cluster.address).close()  # the connection was given up


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs Ray .*: pip install 'paramap_d2.ray"):
        RayExecutor(1)
