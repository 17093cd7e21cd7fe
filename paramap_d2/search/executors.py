"""Where proxies run. An executor takes tasks and gives back outcomes as they end, whatever becomes of a task."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import get_context
from typing import Protocol

from pebble import ProcessExpired, ProcessPool

from paramap_d2.errors import UserError

from .proxy import Outcome, Task

Evaluate = Callable[[Task], Outcome]


class Executor(Protocol):
    """``run`` yields every task's place with its outcome, in the order in which they end; ``close`` ends all work."""

    workers: int

    def run(self, evaluate: Evaluate, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]: ...

    def close(self) -> None: ...


class InlineExecutor:
    """One after the other in this process. A crash of a proxy is the end of the search; for debugging."""

    workers = 1

    def run(self, evaluate: Evaluate, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        for place, task in enumerate(tasks):
            yield place, evaluate(task)

    def close(self) -> None:
        pass


class ProcessExecutor:
    """Worker processes on this machine, each with a fair share of the threads and, where there are GPUs, one of them.

    Workers live on from task to task. A worker that dies or exceeds ``timeout`` costs its task (a failed outcome that
    says so), and a new one takes its place.

    Args:
        workers: processes.
        timeout: seconds that a task may take; None for no limit.
        threads: torch threads of each worker; by default the processors divided by the workers.
    """

    def __init__(self, workers: int, timeout: float | None = None, threads: int | None = None):
        if workers < 1:
            raise UserError(f"workers must be at least 1, not {workers}")
        if timeout is not None and timeout <= 0:
            raise UserError(f"timeout must be a positive number of seconds, not {timeout:g}")
        self.workers, self.timeout = workers, timeout
        self.threads = threads or max(1, processors() // workers)
        # A pool for each worker: then the place of a worker, and with it its GPU, is known whoever dies.
        self._pools = [
            ProcessPool(
                max_workers=1,
                context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(slot, self.threads, os.getpid()),
            )
            for slot in range(workers)
        ]

    def run(self, evaluate: Evaluate, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        waiting = list(enumerate(tasks))
        idle = list(range(self.workers))
        running: dict[Future, tuple[int, int, float]] = {}
        try:
            while waiting or running:
                while waiting and idle:
                    place, task = waiting.pop(0)
                    slot = idle.pop(0)
                    future = self._pools[slot].schedule(evaluate, args=[task], timeout=self.timeout)
                    running[future] = place, slot, time.time()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    place, slot, started = running.pop(future)
                    idle.append(slot)
                    outcome = self._outcome(future, started)
                    outcome.worker = slot
                    yield place, outcome
        finally:
            for future in running:
                future.cancel()

    def _outcome(self, future: Future, started: float) -> Outcome:
        try:
            return future.result()
        except TimeoutError:
            error = f"exceeded the time limit of {self.timeout:g} s"
        except ProcessExpired as expired:
            code = expired.exitcode
            died = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
            error = f"the worker process died ({died})"
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}".splitlines()[0]
        return Outcome("failed", error=error, started=started, seconds=time.time() - started)

    def close(self) -> None:
        for pool in self._pools:
            pool.stop()
        for pool in self._pools:
            pool.join()


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(slot: int, threads: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def _end_with(parent: int) -> None:
    """Ends this process when the search that started it is gone, killed or not."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
