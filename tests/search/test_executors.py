import os

import fake_proxies
import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.executors import InlineExecutor, ProcessExecutor, processors
from paramap_d2.search.proxy import Task


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
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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


@pytest.mark.parametrize("kwargs, message", [({"workers": 0}, "workers"), ({"workers": 1, "timeout": 0}, "timeout")])
def test_user_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        ProcessExecutor(**kwargs)
