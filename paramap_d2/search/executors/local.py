"""Where proxies run. An executor takes tasks and gives back outcomes as they end, whatever becomes of a task."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, resource_tracker
from typing import Protocol

from pebble import ProcessExpired, ProcessPool

from paramap_d2.errors import UserError
from paramap_d2.search.proxies.failures import cause_of, first_line
from paramap_d2.search.proxies.proxy import Outcome, Task
from paramap_d2.search.store import FAILED, INTERRUPTED, KILLED, OTHER, TIME

from .processors import processors

Evaluate = Callable[[Task], Outcome]

OnStart = Callable[[int, int], None]


def unheard(place: int, worker: int) -> None:
    """An :data:`OnStart` for whom it does not matter."""


class Executor(Protocol):
    """``run`` yields every task's place with its outcome, in the order in which they end; ``close`` ends all work.

    ``on_start`` is told the place and the worker of a task when it begins.

    A KeyboardInterrupt in ``run`` (raised there, or thrown into it by who iterates) ends what is running, yields
    each of these tasks with an outcome of status ``interrupted``, and is raised again.
    """

    workers: int
    threads: int  # of torch, that a proxy has

    def run(
        self, evaluate: Evaluate, tasks: Sequence[Task], on_start: OnStart = unheard
    ) -> Iterator[tuple[int, Outcome]]: ...

    def close(self) -> None: ...


class InlineExecutor:
    """One after the other in this process. A crash of a proxy is the end of the search; for debugging.

    Args:
        threads: of torch, from the first task on; None leaves them as they are.
    """

    workers = 1

    def __init__(self, threads: int | None = None):
        self._threads = threads

    @property
    def threads(self) -> int:
        import torch

        return self._threads or torch.get_num_threads()

    def run(
        self, evaluate: Evaluate, tasks: Sequence[Task], on_start: OnStart = unheard
    ) -> Iterator[tuple[int, Outcome]]:
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)
        for place, task in enumerate(tasks):
            started = time.time()
            try:
                on_start(place, 0)
                outcome = evaluate(task)
            except KeyboardInterrupt:
                yield place, interrupted(started)
                raise
            yield place, outcome

    def close(self) -> None:
        pass


class ProcessExecutor:
    """Worker processes on this machine, each with a fair share of the threads and, where there are GPUs, one of them.

    Workers live on from task to task. A worker that dies or exceeds ``timeout`` costs its task (a failed outcome that
    says so), and a new one takes its place. Whatever processes a worker started end with it.

    Args:
        workers: processes.
        timeout: seconds that a task may take; None for no limit.
        threads: torch threads of each worker; by default the processors divided by the workers.
    """

    def __init__(self, workers: int, timeout: float | None = None, threads: int | None = None):
        if workers < 1:
            raise UserError(f"--workers must be at least 1, not {workers}")
        if timeout is not None and not 0 < timeout < math.inf:
            raise UserError(f"--timeout must be a positive number of seconds, not {timeout:g}")
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

    def run(
        self, evaluate: Evaluate, tasks: Sequence[Task], on_start: OnStart = unheard
    ) -> Iterator[tuple[int, Outcome]]:
        waiting = list(enumerate(tasks))
        idle = list(range(self.workers))
        running: dict[Future, tuple[int, int, float]] = {}
        try:
            while waiting or running:
                while waiting and idle:
                    place, task = waiting.pop(0)
                    slot = idle.pop(0)
                    future = self._schedule(slot, evaluate, task)
                    running[future] = place, slot, time.time()
                    on_start(place, slot)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    place, slot, started = running.pop(future)
                    idle.append(slot)
                    outcome = self._outcome(future, started)
                    outcome.worker = slot
                    yield place, outcome
        except KeyboardInterrupt:
            cut_off = {future: future.cancel() for future in running}
            for future, (place, slot, started) in running.items():
                # What ended in the same moment is kept.
                outcome = interrupted(started) if cut_off[future] else self._outcome(future, started)
                outcome.worker = slot
                yield place, outcome
            raise
        finally:
            for future in running:
                future.cancel()

    def _schedule(self, slot: int, evaluate: Evaluate, task: Task) -> Future:
        """Starts the worker too, if it is the slot's first. Ctrl-C at a terminal goes to all processes there: those
        begun meanwhile, by threads that inherit what this one blocks, are deaf to it from the first."""
        resource_tracker.ensure_running()  # with the first worker it would unblock the signal for it
        main = threading.current_thread() is threading.main_thread()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if main else None
        try:
            return self._pools[slot].schedule(_work, args=[evaluate, task], timeout=self.timeout)
        except RuntimeError:  # the pool has given up
            raise UserError(_NO_START) from None
        finally:
            if blocked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _outcome(self, future: Future, started: float) -> Outcome:
        try:
            return future.result()
        except WorkerStartError as error:
            raise UserError(f"a worker cannot start: {error}") from None
        except BrokenProcessPool:
            raise UserError(_NO_START) from None
        except TimeoutError:
            return failed(f"exceeded the time limit of {self.timeout:g} s", started, TIME)
        except ProcessExpired as expired:
            code = expired.exitcode
            died = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
            return failed(f"the worker process died ({died})", started, KILLED)
        except Exception as raised:  # an outcome that cannot be sent
            return failed(first_line(raised), started, OTHER)

    def close(self) -> None:
        for pool in self._pools:
            pool.stop()
        for pool in self._pools:
            pool.join()


_NO_START = "a worker process died while it started, before its first proxy; is there memory for so many workers?"

_start_error = ""
"""In a worker: why it cannot be one."""


class WorkerStartError(Exception):
    """A worker is not fit to evaluate anything."""


def _work(evaluate: Evaluate, task: Task) -> Outcome:
    if _start_error:
        raise WorkerStartError(_start_error)
    return attempt(evaluate, task)


def attempt(evaluate: Evaluate, task: Task) -> Outcome:
    """Evaluates in a worker; whatever is raised is a failed outcome, the same from every executor."""
    started = time.time()
    try:
        return evaluate(task)
    except BaseException as raised:
        return failed(first_line(raised), started, cause_of(raised))


def failed(error: str, started: float, cause: str) -> Outcome:
    """The outcome of a task without a result."""
    return Outcome(FAILED, error=error, started=started, seconds=time.time() - started, cause=cause)


def interrupted(started: float) -> Outcome:
    """The outcome of a task that was cut off by the user."""
    return Outcome(INTERRUPTED, started=started, seconds=time.time() - started)


def _start_worker(slot: int, threads: int, search: int) -> None:
    global _start_error
    try:
        _prepare_worker(slot, threads, search)
    except Exception as error:  # a pool would end with it, and not say why
        _start_error = first_line(error)


def _prepare_worker(slot: int, threads: int, search: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once: what a proxy holds needs no tidying
    end_together([search])
    if os.getppid() != search:  # it was gone before it could be watched
        os._exit(1)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def end_together(others: Iterable[int] = ()) -> None:
    """Ends this process when one of the ``others`` ends, and with this process all that it has started by then.

    That is to hold however a process ends, SIGKILL included, so a small process of its own sees to it. Processes that
    move to another process group are out of its reach.
    """
    if os.getpgrp() != os.getpid():
        os.setsid()
    end_after([os.getpid(), *others], [-os.getpid()])


def end_after(watched: Sequence[int], victims: Sequence[int]) -> None:
    """Starts a process that kills the victims (negative: a process group) as soon as one of the watched has ended."""
    if not hasattr(os, "pidfd_open"):
        return  # no Linux: only a search that is killed leaves something running
    # A process descriptor, unlike a number, never comes to mean another process.
    descriptors: dict[int, int] = {}
    try:
        try:
            descriptors.update((pid, os.pidfd_open(pid)) for pid in watched)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EPERM):  # an old kernel, or one that is told to refuse it
                return
            raise
        for pid in victims:
            if pid > 0 and pid not in descriptors:
                with contextlib.suppress(ProcessLookupError):
                    descriptors[pid] = os.pidfd_open(pid)
        subprocess.run(
            [
                sys.executable,
                *("-I", "-S", "-c", _GUARD),
                ",".join(str(descriptors[pid]) for pid in watched),
                ",".join(str(descriptors.get(pid, pid)) for pid in victims if pid < 0 or pid in descriptors),
            ],
            check=True,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


# Forks, so that it is nobody's child: who starts it neither waits for it nor kills it with its children.
_GUARD = """
import os, select, signal, sys
if os.fork():
    os._exit(0)
watched, victims = ([int(number) for number in text.split(",")] for text in sys.argv[1:])
poll = select.poll()
for descriptor in watched:
    poll.register(descriptor, select.POLLIN)
poll.poll()
for victim in victims:
    try:
        if victim < 0:
            os.kill(victim, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(victim, signal.SIGKILL)
    except OSError:
        pass
"""
