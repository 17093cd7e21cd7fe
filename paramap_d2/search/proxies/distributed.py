"""A proxy on several GPUs of one machine: a process for each, started as Detectron2 starts those of any training."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path

from paramap_d2.files import write_whole
from paramap_d2.search.store import DIVERGED, FAILED, KILLED, OTHER

from .proxy import Outcome, Proxy, Task

TOLD = "outcome.pickle"


@dataclass(frozen=True)
class DistributedProxy:
    """Evaluates tasks as a :class:`Proxy` does, in processes that share each batch and the test images. Without GPUs
    they communicate by gloo. (Several tasks at a time need a process each, whose number of torch threads they share.)

    Args:
        processes: at least 2, and no more than the machine has GPUs, if it has any.
    """

    proxy: Proxy
    processes: int

    def __call__(self, task: Task) -> Outcome:
        import torch
        from detectron2.engine import launch
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

        started = time.time()
        told = self.proxy.folder_of(task) / TOLD
        told.parent.mkdir(parents=True, exist_ok=True)
        told.unlink(missing_ok=True)
        threads = max(1, torch.get_num_threads() // self.processes)
        ended: Exception | None = None
        try:
            launch(_rank, self.processes, dist_url="auto", args=(self.proxy, task, told, threads))
        except (ProcessExitedException, ProcessRaisedException) as error:
            ended = error
        seconds = time.time() - started
        if signal := getattr(ended, "signal_name", None):  # what the others have said is of its death
            error, cause = f"a process of the proxy was killed by {signal}", KILLED
        elif told.exists():
            outcome = pickle.loads(told.read_bytes())  # our own
            told.unlink()
            outcome.started, outcome.seconds = started, seconds
            return outcome
        else:
            error, cause = str(ended or "no process of the proxy told an outcome").strip().splitlines()[-1], OTHER
        return Outcome(FAILED, error=error, started=started, seconds=seconds, cause=cause)


def _rank(proxy: Proxy, task: Task, told: Path, threads: int) -> None:
    import torch
    from detectron2.utils import comm

    torch.set_num_threads(threads)
    outcome = proxy(task)
    # What all ranks come to, rank 0 tells; what one comes to alone, such as a GPU without memory, that one, and first.
    alone = outcome.status in (FAILED, DIVERGED)
    if alone or comm.is_main_process():
        _tell(outcome, told)
    if alone:
        os._exit(1)  # at once: the others wait for this one, and are ended
    comm.synchronize()
    torch.distributed.destroy_process_group()


def _tell(outcome: Outcome, told: Path) -> None:
    """Write the outcome, if no other rank was first: the failures of the others follow from the first."""
    mine = told.with_name(f"{told.name}.{os.getpid()}")
    write_whole(mine, pickle.dumps(outcome))
    try:
        os.link(mine, told)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
