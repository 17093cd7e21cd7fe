"""The signs of life that a search leaves in its folder, for who watches from another process or host.

``status.json`` is written by the search: what runs where, how far it is, and that it lives. ``running/NAME.json`` is
written by each training (:mod:`paramap_d2.search.proxies.progress`). Both are small and whole at any moment, and
nothing that a search hangs on: where they cannot be written it goes on without.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

from paramap_d2.errors import NoResultError
from paramap_d2.files import write_whole

from .trainings import SearchProgress

logger = logging.getLogger("paramap_d2.search")

FILE = "status.json"
TRAININGS = "running"

EVERY = 10.0
"""Seconds from one beat to the next."""

PAUSE = 1.0
"""Seconds between two writes at least, however much changes."""

STALE = 60.0
"""Seconds after which a search on another host is taken for dead."""

RUNNING, DONE, INTERRUPTED, FAILED, DEAD = "running", "done", "interrupted", "failed", "dead"
"""States of a search. It writes the first four itself; dead is one that says it runs and does not."""


def boot() -> str:
    """Tells apart machines of the same name, and one from itself before it was started anew; empty if it cannot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Heartbeat:
    """Keeps ``status.json`` fresh while a search runs; a context manager.

    A thread of its own writes, so that a search that draws its report, or waits for a proxy of hours, shows itself all
    the same. At the end the file says how it ended.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        now = time.time()
        self._content: dict[str, Any] = {
            "format": 1,
            "state": RUNNING,
            "why": "",
            "host": socket.gethostname(),
            "boot": boot(),
            "pid": os.getpid(),
            "begun": now,
            "heartbeat": now,
            "every": EVERY,
            "generation": None,
            "done": 0,
            "total": None,
            "best": None,
            "running": [],
        }
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._failed = False

    def show(self, now: SearchProgress) -> None:
        """May be called at any rate."""
        running = [
            {
                "name": r.task.name,
                "worker": r.worker,
                "started": r.started,
                "generation": r.task.generation,
                "position": r.task.position,
                "genome": list(r.task.genome),
                "seed": r.task.seed,
                "stage": r.task.stage,
                "attempt": r.task.attempt,
            }
            for r in now.running
        ]
        told = {"generation": now.generation, "done": now.done, "total": now.total, "best": now.best}
        self._content = {**self._content, **told, "running": running}
        self._changed.set()

    def end(self, state: str, why: str = "") -> None:
        """How the search ends, where that is no exception."""
        self._content = {**self._content, "state": state, "why": why}

    def __enter__(self) -> Heartbeat:
        # What a search that was killed has left of its trainings.
        shutil.rmtree(self._folder / TRAININGS, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self._folder / TRAININGS).mkdir()
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join()
        if isinstance(error, KeyboardInterrupt):
            self.end(INTERRUPTED)
        elif error is not None:
            lines = str(error).splitlines()
            known = isinstance(error, NoResultError)
            self.end(FAILED, lines[0] if known and lines else f"{kind.__name__}: {lines[0] if lines else ''}")
        elif self._content["state"] == RUNNING:
            self.end(DONE)
        self._content = {**self._content, "running": []}
        self._write()
        shutil.rmtree(self._folder / TRAININGS, ignore_errors=True)

    def _beat(self) -> None:
        while not self._over.wait(PAUSE):
            self._changed.wait(EVERY)
            self._changed.clear()
            if not self._over.is_set():
                self._write()

    def _write(self) -> None:
        content = {**self._content, "heartbeat": time.time()}
        try:
            write_whole(self._folder / FILE, json.dumps(content).encode())
        except OSError as error:
            if not self._failed:
                logger.warning(f"{self._folder / FILE} cannot be written, and nobody sees from it what runs: {error}")
            self._failed = True
