"""Proxies without a training, for the tests of what surrounds them. In a module, so that workers can import them."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.store import FINISHED


def target_distance(task):
    """Best where all genes are 0.7; a fifth of the genomes fail, told by their first gene alone."""
    fitness = 100 - 100 * sum((gene - 0.7) ** 2 for gene in task.genome) / len(task.genome)
    if int(task.genome[0] * 1e6) % 5 == 3:
        return Outcome("diverged", error="FloatingPointError: made up")
    return Outcome(FINISHED, fitness, {"bbox/AP": fitness}, seconds=0.01, iterations=10, started=time.time())


def slow_first(task):
    """The sooner asked for, the later it ends."""
    time.sleep(0.05 * max(0, 6 - task.position))
    return target_distance(task)


def misbehave(task):
    """What a proxy can do wrong, by its position."""
    match task.position:
        case 0:
            os._exit(7)
        case 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 2:
            time.sleep(3600)
        case 3:
            raise RuntimeError("made up\nsecond line")
    return target_distance(task)


def about_the_process(task):
    import torch

    return Outcome(FINISHED, 1.0, {"pid": os.getpid(), "threads": torch.get_num_threads()})


def environment(task):
    """What a worker sees of its surroundings, as the error."""
    return Outcome(
        "failed", error=f"{os.environ.get('PARAMAP_DATASETS')} {os.environ['OMP_NUM_THREADS']} {os.getcwd()}"
    )


def a_users_variables(task):
    return Outcome("failed", error=f"{os.environ.get('A_USERS_TOKEN')} {os.environ.get('ANOTHER')}")


def deaf(task):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return Outcome(FINISHED, 1.0, {"blocked": float(blocked)})


@dataclass(frozen=True)
class Leaking:
    """Leaves a grandchild of the worker behind, and names its own and that process by files in the folder.

    Tasks from position ``hanging`` on then never end.
    """

    folder: str
    hanging: int

    def __call__(self, task):
        shell = subprocess.run(["sh", "-c", "sleep 3600 > /dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
        for pid in (os.getpid(), int(shell.stdout)):
            (Path(self.folder) / str(pid)).touch()
        if task.position >= self.hanging:
            time.sleep(3600)
        return target_distance(task)


@dataclass(frozen=True)
class Dying:
    """Kills its worker the first ``times`` times that it is to evaluate position 1; leaves a file for each time."""

    folder: str
    times: int

    def __call__(self, task):
        before = len(list(Path(self.folder).iterdir()))
        if task.position == 1 and before < self.times:
            (Path(self.folder) / str(before)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return target_distance(task)


@dataclass(frozen=True)
class Awaiting:
    """Leaves a file in the folder when it begins, and ends once there is one named ``go``."""

    folder: str

    def __call__(self, task):
        (Path(self.folder) / f"{task.position}_{os.getpid()}").touch()
        while not (Path(self.folder) / "go").exists():
            time.sleep(0.05)
        return target_distance(task)
