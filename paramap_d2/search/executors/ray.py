"""Proxies on a Ray cluster: any number of machines."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paramap_d2.errors import UserError
from paramap_d2.search.proxies.failures import first_line
from paramap_d2.search.proxies.proxy import Outcome, Task
from paramap_d2.search.store import KILLED, OTHER, TIME

from .local import Evaluate, OnStart, attempt, end_after, end_together, failed, interrupted, unheard

FORWARDED = ("DETECTRON2_DATASETS", "PARAMAP_DATASETS", "FVCORE_CACHE", "TORCH_HOME")
"""Environment variables that a worker takes over from the search."""

OBJECT_STORE = 128 * 2**20
"""Bytes of shared memory of a local Ray: outcomes are small, and Ray's own default is a third of all memory."""

logger = logging.getLogger("paramap_d2.search")

WAIT = 15.0
"""Seconds without any worker after which the search says what it waits for."""

START_RETRIES = 2
"""How often in a row a worker may fail to start before that is the end of the search."""


@dataclass
class _Job:
    """A task that a worker is at."""

    place: int
    started: float  # seconds since the epoch
    deadline: float  # of time.monotonic


@dataclass
class _Slot:
    """The place of a worker. It has no actor, or one that starts, or is idle, or has a job."""

    number: int
    actor: Any = None
    awaited: Any = None  # the reference to the end of the job, without a job to that of the start; None when idle
    job: _Job | None = None
    failed_starts: int = 0


class RayExecutor:
    """Workers on a Ray cluster, or on a local Ray that lives as long as the executor.

    Workers live on from task to task, and tasks go only to workers that have started: one that waits for room on a
    full cluster holds nothing up. A worker or machine that dies costs its running task alone, a failed outcome as from
    the other executors. The machines share the folders of the search and its data, under the same names.

    Args:
        workers: proxies at a time.
        timeout: seconds that a task may take; None for no limit.
        address: of a running cluster, ``host:port`` or ``auto`` for the one of this machine; None starts a local Ray
            with room for all workers, whether this machine has as many processors or not.
        cpus: processors of each proxy.
        gpus: of each proxy: a fraction shares a GPU, more than one are a whole number of one machine's.
        threads: torch threads of each proxy; by default as many as its processors.
        environment: variables that workers take over from the search, beside :data:`FORWARDED`.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no machine of it has room for a proxy.
    """

    def __init__(
        self,
        workers: int,
        timeout: float | None = None,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int | None = None,
        environment: Sequence[str] = (),
    ):
        if workers < 1:
            raise UserError(f"--workers must be at least 1, not {workers}")
        if timeout is not None and not 0 < timeout < math.inf:
            raise UserError(f"--timeout must be a positive number of seconds, not {timeout:g}")
        if not 0 < cpus < math.inf:
            raise UserError(f"--cpus-per-proxy must be a positive number, not {cpus:g}")
        check_gpus(gpus)
        self.workers, self.timeout = workers, timeout
        self.threads = threads or max(1, int(cpus))
        self._slots = [_Slot(number) for number in range(workers)]
        self._ray = _import_ray()
        _connect(self._ray, address, self.threads, math.ceil(workers * cpus), environment)
        try:
            _check_room(self._ray, cpus, gpus)
            self._actor = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Worker)
        except BaseException:
            self.close()
            raise

    def run(
        self, evaluate: Evaluate, tasks: Sequence[Task], on_start: OnStart = unheard
    ) -> Iterator[tuple[int, Outcome]]:
        waiting = deque(range(len(tasks)))
        try:
            while waiting or any(slot.job for slot in self._slots):
                for slot in self._slots:
                    if waiting and slot.actor is None:
                        slot.actor = self._actor.remote(self.threads, os.getcwd())
                        slot.awaited = slot.actor.ready.remote()
                    elif waiting and slot.awaited is None:
                        place = waiting.popleft()
                        slot.job = _Job(place, time.time(), time.monotonic() + (self.timeout or math.inf))
                        slot.awaited = slot.actor.attempt.remote(evaluate, tasks[place])
                        on_start(place, slot.number)
                for slot in self._ended():
                    job = slot.job
                    if job is None:
                        self._started(slot)
                        continue
                    outcome = self._outcome(slot)
                    outcome.worker = slot.number
                    yield job.place, outcome
        except KeyboardInterrupt:
            cut_off = [(slot, slot.job) for slot in self._slots if slot.job]
            for slot, _ in cut_off:
                self._end(slot)
            for slot, job in cut_off:
                outcome = interrupted(job.started)
                outcome.worker = slot.number
                yield job.place, outcome
            raise
        finally:
            for slot in self._slots:
                if slot.job:
                    self._end(slot)

    def _ended(self) -> list[_Slot]:
        """Waits until a job or a start has ended or a job is overdue; returns all such slots."""
        busy = {slot.awaited: slot for slot in self._slots if slot.awaited is not None}
        first = min(slot.job.deadline if slot.job else math.inf for slot in busy.values())
        left = None if first == math.inf else max(0.0, first - time.monotonic())
        if not any(slot.job for slot in busy.values()):
            ended, _ = self._ray.wait(list(busy), timeout=WAIT)
            if not ended:
                logger.info("waiting for Ray to have room for a worker")
        self._ray.wait(list(busy), timeout=left)
        # All of them, lest the first in the list are always the first to be served.
        ended, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        now = time.monotonic()
        return [slot for awaited, slot in busy.items() if awaited in ended or (slot.job and slot.job.deadline <= now)]

    def _started(self, slot: _Slot) -> None:
        try:
            self._ray.get(slot.awaited)
        except self._ray.exceptions.RayError as error:
            self._end(slot)
            slot.failed_starts += 1
            if slot.failed_starts > START_RETRIES:
                raise UserError(f"Ray cannot start a worker: {_reason(error)}") from None
        else:
            slot.awaited, slot.failed_starts = None, 0

    def _outcome(self, slot: _Slot) -> Outcome:
        """What came of the job of a slot, which is free afterwards."""
        job = slot.job
        try:
            outcome = self._ray.get(slot.awaited, timeout=0)
        except self._ray.exceptions.GetTimeoutError:
            self._end(slot)
            return failed(f"exceeded the time limit of {self.timeout:g} s", job.started, TIME)
        except self._ray.exceptions.RayTaskError as error:  # a task or outcome that cannot be sent
            slot.job = slot.awaited = None
            return failed(first_line(error.cause), job.started, OTHER)
        except self._ray.exceptions.RayError as error:
            self._end(slot)
            return failed(f"the worker died ({_reason(error)})", job.started, KILLED)
        slot.job = slot.awaited = None
        return outcome

    def _end(self, slot: _Slot) -> None:
        if slot.actor is not None:
            self._ray.kill(slot.actor)
        slot.actor = slot.awaited = slot.job = None

    def close(self) -> None:
        for slot in self._slots:
            self._end(slot)
        self._ray.shutdown()


class _Worker:
    """The actor: evaluates tasks one after the other. Its process ends with all that it has started."""

    def __init__(self, threads: int, folder: str):
        end_together()
        os.chdir(folder)  # paths of the config and the data may be relative
        import torch

        torch.set_num_threads(threads)

    def ready(self) -> None:
        pass

    def attempt(self, evaluate: Evaluate, task: Task) -> Outcome:
        return attempt(evaluate, task)


def check_gpus(gpus: float) -> None:
    """
    Raises:
        UserError: a proxy cannot have so many GPUs.
    """
    if not 0 <= gpus <= 1 and not (1 < gpus < math.inf and gpus == int(gpus)):
        raise UserError(f"--gpus-per-proxy must be a fraction of one GPU or a whole number of them, not {gpus:g}")


def _import_ray() -> Any:
    # Ray reads them when it is imported: no report to its makers, no printing of what is in an outcome anyway.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed|Raylet is terminated")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A local Ray would let everything else on the machine go first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # who names a token means it to be used
    try:
        import ray
    except ImportError as error:
        raise UserError(f"the ray executor needs Ray ({error}): pip install 'paramap_d2[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None, threads: int, cpus: int, more: Sequence[str]) -> None:
    for name in more:
        if name not in os.environ:
            raise UserError(f"--env {name}: there is no such environment variable")
    environment = {name: os.environ[name] for name in (*FORWARDED, *more) if name in os.environ}
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONPATH"] = os.pathsep.join(_own_paths())
    options = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": environment}}
    try:
        if address is None:
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE, **options)
            _end_local_ray_with_search()
        else:
            # Ray itself would try for minutes and then end the process.
            if host_and_port := re.fullmatch(r"(?:ray://)?\[?([^\]]+)\]?:(\d+)", address):
                socket.create_connection((host_and_port[1], int(host_and_port[2])), timeout=10).close()
            ray.init(address, **options)
    except Exception as error:
        where = "start a local Ray" if address is None else f"reach a Ray cluster at {address}"
        hint = ""
        if address is not None and os.environ.get("RAY_AUTH_MODE") != "token":
            hint = "; if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise UserError(f"cannot {where}: {first_line(error)}{hint}") from None


def _own_paths() -> list[str]:
    """Where Python finds modules beside those of its installation, which every machine has its own of."""
    paths = [os.path.abspath(path) for path in sys.path]
    return [path for path in paths if not path.startswith((sys.prefix + os.sep, sys.base_prefix + os.sep))]


def _end_local_ray_with_search() -> None:
    """Ray's main processes end with the one that started them, even if it is killed; those that they started do not."""
    import psutil  # comes with Ray

    for raylet in psutil.Process().children():
        if raylet.name() == "raylet":
            end_after([os.getpid(), raylet.pid], [raylet.pid, *(child.pid for child in raylet.children())])


def _check_room(ray: Any, cpus: float, gpus: float) -> None:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(machine.get("CPU", 0) >= cpus and machine.get("GPU", 0) >= gpus for machine in machines):
        have = "; ".join(f"{machine.get('CPU', 0):g} CPUs, {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise UserError(f"no machine of Ray has {cpus:g} CPUs and {gpus:g} GPUs for a proxy; they have {have}")


def _reason(error: Exception) -> str:
    """Why a worker died, in one line: Ray's own accounts are long and end with guesses."""
    text = str(error).strip()
    if "its node has died" in text:
        return "its machine was lost"
    if "error raised in its creation task" in text:
        return text.splitlines()[-1].strip()
    if "worker process has died" in text:
        return "its process was killed or crashed"
    return first_line(error)
