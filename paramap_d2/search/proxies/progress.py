"""How far a training is, in a small file for who watches."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from paramap_d2.files import write_whole

PAUSE = 2.0
"""Seconds between two writes at least."""


class TrainingProgress:
    """How far one training is, for who watches; written at most every :data:`PAUSE` seconds.

    Args:
        path: of the file; None for nobody. It goes with the training.
    """

    def __init__(self, path: Path | None):
        self._path, self._written = path, float("-inf")

    def due(self) -> bool:
        """Whether it is time to tell again: cheap, to be asked after every iteration."""
        return self._path is not None and time.monotonic() - self._written >= PAUSE

    def tell(
        self,
        iteration: int,
        planned: int,
        loss: float | None,
        curve: Sequence[Sequence[float]],
        phase: str = "training",
    ) -> None:
        """
        Args:
            iteration: of ``planned``, that are done.
            loss: of the last one.
            curve: [iteration, metric] of the evaluations on the way.
            phase: ``training`` or ``evaluating``.
        """
        if self._path is None:
            return
        self._written = time.monotonic()
        content = {
            "iteration": iteration,
            "planned": planned,
            "loss": loss,
            "curve": [list(point) for point in curve],
            "phase": phase,
            "time": time.time(),
        }
        with contextlib.suppress(OSError):  # a folder that is gone, a full disk: no reason to fail a proxy
            write_whole(self._path, json.dumps(content).encode())

    def remove(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
