"""The end of a search on time."""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .store import Evaluation


class TimeUp(KeyboardInterrupt):
    """The time of the search is over: as Ctrl-C to all that runs."""


class Deadline:
    """Args: seconds: from now on; None for no end."""

    def __init__(self, seconds: float | None = None):
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def leaves(self, evaluations: Sequence[Evaluation], *trainings: tuple[int, float], workers: int) -> bool:
        """Whether there is time for more trainings, if they take as long as those so far.

        Args:
            evaluations: those so far.
            trainings: how many, and how many times as long each is; what comes after each other one by one.
        """
        seconds = [e.seconds for e in evaluations if e.counts and e.seconds > 0]
        if self._end == math.inf or not seconds:
            return True
        usual = statistics.median(seconds)
        rounds = sum(math.ceil(count / workers) * length for count, length in trainings)
        return time.monotonic() + rounds * usual <= self._end

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises TimeUp in what runs in the context when time is up. In the main thread of a process alone."""
        if self._end == math.inf or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ring(*_: object) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(0.001, self._end - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
