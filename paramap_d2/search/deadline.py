"""The end of a search on time."""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .store import FINISHED, Evaluation


class TimeUp(KeyboardInterrupt):
    """The time of the search is over: as Ctrl-C to all that runs."""


class Deadline:
    """Args: seconds: from now on; None for no end.

    Attributes:
        passed_over: whether something was left out for want of time.
    """

    def __init__(self, seconds: float | None = None):
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self.passed_over = False

    def leaves(
        self, evaluations: Sequence[Evaluation], generation: int, *last: tuple[int, int | None], workers: int
    ) -> bool:
        """Whether there is time for another generation and the last trainings, one kind after the other, at the pace so
        far. The last ones are whole, however many proxies were ended early.

        Args:
            evaluations: proxies so far.
            generation: proxies of it.
            last: how many trainings of how many iterations; None for as many as a proxy's.
        """
        known = [e for e in evaluations if e.counts and e.seconds > 0]
        if self._end == math.inf or not known:
            return True
        planned = max(e.planned for e in known)
        finished = [e.seconds for e in known if e.status == FINISHED]
        whole = statistics.median(finished or [e.seconds * max(1.0, planned / max(1, e.iterations)) for e in known])
        seconds = math.ceil(generation / workers) * statistics.median(e.seconds for e in known)
        for count, iterations in last:
            lengths = iterations / planned if iterations and planned else 1.0
            seconds += math.ceil(count / workers) * lengths * whole
        enough = time.monotonic() + seconds <= self._end
        self.passed_over |= not enough
        return enough

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
