"""A proxy on several GPUs of one machine: a process for each, started as Detectron2 starts those of any training."""

from __future__ import annotations

import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from paramap_d2.files import write_whole
from paramap_d2.search.store import DIVERGED, FAILED, KILLED, OTHER

from .proxy import Outcome, Proxy, Task

TOLD = "outcome.pickle"

ALONE = (FAILED, DIVERGED)
"""What one rank may come to without the others."""


@dataclass(frozen=True)
class DistributedProxy:
    """Evaluates tasks as a :class:`Proxy` does, in processes that share each batch, the test images and the torch
    threads of the process that calls it. Without GPUs they talk by gloo.

    Args:
        processes: at least 2, and no more than there are GPUs to be seen, if there are any.
    """

    proxy: Proxy
    processes: int

    def log(self, task: Task) -> Path:
        """What the task's processes print."""
        return self.proxy.log(task)

    def __call__(self, task: Task) -> Outcome:
        import torch
        from detectron2.engine import launch
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

        started = time.time()
        told = self.proxy.folder_of(task) / TOLD
        told.parent.mkdir(parents=True, exist_ok=True)
        told.unlink(missing_ok=True)
        threads = max(1, torch.get_num_threads() // self.processes)
        killed, error = None, "no process of the proxy told an outcome"
        try:
            launch(_rank, self.processes, dist_url="auto", args=(self.proxy, task, told, threads))
        except (ProcessExitedException, ProcessRaisedException) as ended:
            killed, error = getattr(ended, "signal_name", None), str(ended).strip().splitlines()[-1]
        outcome = Outcome(FAILED, error=error, cause=OTHER)
        if told.exists():
            outcome = pickle.loads(told.read_bytes())  # our own
        # A failure that was told is of the death of the one that was killed. What all came to stands, whoever was
        # killed after it: gloo's threads now and then abort a process that takes them down.
        if killed and outcome.status in ALONE:
            outcome = Outcome(FAILED, error=f"a process of the proxy was killed by {killed}", cause=KILLED)
        told.unlink(missing_ok=True)
        outcome.started, outcome.seconds = started, time.time() - started
        return outcome


def _rank(proxy: Proxy, task: Task, told: Path, threads: int) -> None:
    import torch
    from detectron2.utils import comm

    torch.set_num_threads(threads)
    outcome = proxy(task)
    # What all ranks come to, rank 0 tells; what one comes to alone, such as a GPU without memory, that one, and first.
    alone = outcome.status in ALONE
    if alone or comm.is_main_process():
        _tell(outcome, told)
    if alone:
        os._exit(1)  # at once: the others wait for this one, and are ended
    comm.synchronize()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the interpreter's own end may find threads of gloo, and aborts


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
