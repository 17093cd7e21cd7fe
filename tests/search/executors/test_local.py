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
from paramap_d2.search.executors.local import InlineExecutor, ProcessExecutor, end_after
from paramap_d2.search.executors.processors import processors
from paramap_d2.search.proxies.proxy import Task
from paramap_d2.search.store import FINISHED, INTERRUPTED


def tasks(count):
    return [Task(0, place, [place / 10, 0.5], 0) for place in range(count)]


@pytest.fixture
def executor(request):
    made = []

    def make(*args, **kwargs):
        made.append(ProcessExecutor(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def alive(pid):
    """Whether a process runs; one that is dead and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def started(folder, count):
    """The processes that ``fake_proxies.Leaking`` names, once there are so many."""
    for _ in range(1200):
        pids = [int(path.name) for path in folder.iterdir()]
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    raise AssertionError(f"{len(pids)} processes instead of {count}")


def all_end(pids):
    """Whether they do so, of themselves, within half a minute."""
    for _ in range(600):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def interrupt_when(folder, count):
    """Ctrl-C, once ``fake_proxies.Leaking`` has named so many processes."""

    def wait_and_interrupt():
        started(folder, count)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait_and_interrupt, daemon=True).start()


def test_inline_and_process_give_the_same_outcomes(executor):
    def outcomes(runner):
        found = dict(runner.run(fake_proxies.slow_first, tasks(7)))
        return [(place, found[place].status, found[place].fitness) for place in sorted(found)]

    assert outcomes(InlineExecutor()) == outcomes(executor(2))


def test_results_name_their_task_whatever_the_order_of_ending(executor):
    order = [place for place, _ in executor(3).run(fake_proxies.slow_first, tasks(6))]
    assert sorted(order) == list(range(6))


def test_what_a_proxy_does_wrong_costs_its_task_alone(executor):
    runner = executor(2, timeout=4.0)
    found = dict(runner.run(fake_proxies.misbehave, tasks(6)))
    assert [found[place].status for place in range(4)] == ["failed"] * 4
    assert [found[place].cause for place in range(4)] == ["killed", "killed", "time", "exception"]
    assert "exit code 7" in found[0].error
    assert "SIGSEGV" in found[1].error
    assert found[2].error == "exceeded the time limit of 4 s"
    assert found[3].error == "RuntimeError: made up"
    assert all(found[place].fitness == 0.0 for place in range(4))
    assert found[5].fitness == fake_proxies.target_distance(tasks(6)[5]).fitness
    # Still of use afterwards.
    assert len(dict(runner.run(fake_proxies.target_distance, tasks(3)))) == 3


def test_workers_share_the_threads_live_on_and_are_gone_at_the_end():
    runner = ProcessExecutor(2)
    try:
        first = [o for _, o in runner.run(fake_proxies.about_the_process, tasks(6))]
        again = [o for _, o in runner.run(fake_proxies.about_the_process, tasks(2))]
    finally:
        runner.close()
    pids = {o.metrics["pid"] for o in first + again}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {o.metrics["threads"] for o in first} == {max(1, processors() // 2)}
    assert {o.worker for o in first} == {0, 1}
    assert not any(alive(pid) for pid in pids)


def test_stopping_in_the_middle_leaves_nothing_running():
    runner = ProcessExecutor(2)
    pids = []
    try:
        for _, outcome in runner.run(fake_proxies.about_the_process, tasks(6)):
            pids.append(outcome.metrics["pid"])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    finally:
        runner.close()
    assert pids and not any(alive(pid) for pid in pids)


def test_interrupted_inline():
    def interrupted_at_two(task):
        if task.position == 2:
            signal.raise_signal(signal.SIGINT)
        return fake_proxies.target_distance(task)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for place, outcome in InlineExecutor().run(interrupted_at_two, tasks(5)):
            seen.append((place, outcome.status))
    assert seen == [(0, FINISHED), (1, FINISHED), (2, INTERRUPTED)]


def test_interrupted_workers_yield_what_ran_and_end_with_all_they_started(executor, tmp_path):
    runner, seen = executor(2), []
    interrupt_when(tmp_path, 5)  # two workers, what three tasks leaked
    with pytest.raises(KeyboardInterrupt):
        for place, outcome in runner.run(fake_proxies.Leaking(tmp_path, hanging=1), tasks(5)):
            seen.append((place, outcome.status, outcome.worker))
    assert [(place, status) for place, status, _ in sorted(seen)] == [
        (0, FINISHED),
        (1, INTERRUPTED),
        (2, INTERRUPTED),
    ]
    assert {worker for place, _, worker in seen if place} == {0, 1}
    # Before the executor is closed. The worker of the finished task was also that of a hanging one.
    assert all_end(started(tmp_path, 5))


def test_an_interrupt_while_an_outcome_is_dealt_with_can_be_thrown_in(executor, tmp_path):
    running = executor(2).run(fake_proxies.Leaking(tmp_path, hanging=1), tasks(3))
    assert next(running)[0] == 0
    place, outcome = running.throw(KeyboardInterrupt())
    assert place in (1, 2) and outcome.status == INTERRUPTED
    with pytest.raises(KeyboardInterrupt):
        list(running)


def test_a_worker_beyond_its_time_ends_with_all_it_started(executor, tmp_path):
    runner = executor(1, timeout=3.0)
    found = dict(runner.run(fake_proxies.Leaking(tmp_path, hanging=0), tasks(1)))
    assert found[0].error == "exceeded the time limit of 3 s"
    assert all_end(started(tmp_path, 2))


def test_closing_ends_what_finished_tasks_leaked(tmp_path):
    runner = ProcessExecutor(2)
    assert len(dict(runner.run(fake_proxies.Leaking(tmp_path, hanging=9), tasks(4)))) == 4
    runner.close()
    assert all_end(started(tmp_path, 5))


SEARCH = """
import sys
sys.path[:0] = {path}
import fake_proxies
from paramap_d2.search.proxies.proxy import Task
{make}
if __name__ == "__main__":
    tasks = [Task(0, place, [0.5], 0) for place in range(4)]
    for place, outcome in make().run(fake_proxies.Leaking(sys.argv[1], hanging=0), tasks):
        print(place, outcome.status, outcome.error, flush=True)
"""


def start_search(tmp_path, make):
    """A process that evaluates hanging tasks; ``make`` is code that defines a function which makes its executor."""
    script, folder = tmp_path / "a_search.py", tmp_path / "pids"
    folder.mkdir()
    script.write_text(SEARCH.format(path=[str(Path(fake_proxies.__file__).parent), os.getcwd()], make=make))
    search = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True)
    return search, folder


def test_nothing_outlives_a_killed_search(tmp_path):
    make = """
def make():
    from paramap_d2.search.executors.local import ProcessExecutor
    return ProcessExecutor(2)
"""
    search, folder = start_search(tmp_path, make)
    with search:
        pids = started(folder, 4)
        search.kill()
    assert all_end(pids)


@pytest.mark.parametrize(
    "workers, timeout, message", [(0, 1, "workers"), (1, 0, "timeout"), (1, float("nan"), "timeout")]
)
def test_user_errors(workers, timeout, message):
    with pytest.raises(UserError, match=message):
        ProcessExecutor(workers, timeout)


def test_a_kernel_that_refuses_process_descriptors_is_no_crash(monkeypatch):
    def refused(pid):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)
    end_after([os.getpid()], [os.getpid()])


def test_a_worker_that_cannot_start_is_one_line(executor, monkeypatch, tmp_path):
    runner = executor(1)
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))  # what a spawned process takes over
    with pytest.raises(UserError, match="^a worker process died while it started") as raised:
        list(runner.run(fake_proxies.target_distance, tasks(1)))
    assert "\n" not in str(raised.value)


DEAF = """
import sys
sys.path[:0] = {path}
import fake_proxies
from paramap_d2.search.executors.local import ProcessExecutor
from paramap_d2.search.proxies.proxy import Task
if __name__ == "__main__":
    runner = ProcessExecutor(1)
    ((_, outcome),) = runner.run(fake_proxies.deaf, [Task(0, 0, [0.5], 0)])
    runner.close()
    print(outcome.metrics)
"""


def test_workers_are_deaf_to_ctrl_c_from_the_first(tmp_path):
    script = tmp_path / "a_search.py"  # a process of its own, which has started no other yet
    script.write_text(DEAF.format(path=[str(Path(fake_proxies.__file__).parent), os.getcwd()]))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout == "{'blocked': 1.0}\n", done.stderr
