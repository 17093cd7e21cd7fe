"""A search of proxies without a training, as a process of its own, to be killed: OUT EXECUTOR [RAY_ADDRESS]."""

import os
import sys
import time
from functools import partial
from pathlib import Path

import fake_proxies

from paramap_d2.search.algorithms import build_algorithm
from paramap_d2.search.evolution import Schedule, evolve
from paramap_d2.search.executors.local import InlineExecutor, ProcessExecutor
from paramap_d2.search.store import Store

SCHEDULE = Schedule(seed=5, generations=6, repeats=2, final_iterations=20, finalists=2, confirm=3)


def executor(name, address=None):
    if name == "ray":
        from paramap_d2.search.executors.ray import RayExecutor

        return RayExecutor(2, address=address)
    return ProcessExecutor(2) if name == "process" else InlineExecutor()


def slow_enough(task, pids):
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.1 if task.iterations else 0.03)
    return fake_proxies.target_distance(task)


def tell(now):
    print(now.done, flush=True)


def main(folder, *where):
    algorithm = build_algorithm("ga", 9, 8, seed=2, initial=[[0.5] * 9])
    with Store(Path(folder) / "search.db") as store:
        runner = executor(*where)
        try:
            proxy = partial(slow_enough, pids=str(Path(folder).absolute() / "pids"))
            evolve(algorithm, proxy, runner, store, SCHEDULE, on_progress=tell)
        finally:
            runner.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
