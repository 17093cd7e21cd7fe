"""Proxies without a training, for the tests of what surrounds them. In a module, so that workers can import them."""

import os
import signal
import time

from paramap_d2.search.proxy import Outcome
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
