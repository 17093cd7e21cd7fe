"""What failed a proxy: its loss, or the machine."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from paramap_d2 import losses
from paramap_d2.search.store import DISK, FILE, KILLED, LOSS, MEMORY, OTHER

_LOSSES = Path(losses.__file__).parent

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
_DISK = ("no space left on device", "disk quota exceeded")
_KILLED = ("is killed by signal", "exited unexpectedly")  # as PyTorch says it of a loader's process


def cause_of(error: BaseException) -> str:
    """Why a training raised: :data:`LOSS`, or one of :data:`paramap_d2.search.store.MACHINE`.

    An exception is the loss's if it went through the code that computes losses, unless there was no memory, no room on
    a disk or no file, or it was another process that did not answer.
    """
    text = str(error).lower()
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(part in text for part in _MEMORY):
        return MEMORY
    if number in (errno.ENOSPC, errno.EDQUOT) or any(part in text for part in _DISK):
        return DISK
    if isinstance(error, OSError) or isinstance(error.__cause__, OSError):
        return FILE
    if any(part in text for part in _KILLED):
        return KILLED
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    innermost = next((file.name for file in reversed(files) if file.parent == _LOSSES), None)
    return OTHER if innermost in (None, "loss_file.py", "global_batch.py") else LOSS


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
