"""The lock of a search's folder, which goes with its process however that ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import portalocker

from paramap_d2.files import make_output_folder, remove_parts

from .store import StoreError

FILE = ".lock"

_EXCLUSIVE = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
_SHARED = portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING

PATIENCE = 1.0
"""Seconds after which the lock is another search's: one that only looks has it for a moment."""


@contextmanager
def only_one(folder: Path, resume: bool) -> Iterator[None]:
    """Holds the folder's lock; makes the folder of a new search.

    Raises:
        StoreError: another search has it, or there is no folder to resume in.
        UserError: it cannot be one.
    """
    if resume and not folder.is_dir():
        raise StoreError(f"{folder} does not exist: there is no search to resume")
    make_output_folder(folder)
    try:
        lock = portalocker.Lock(folder / FILE, "w", timeout=PATIENCE, check_interval=0.05, flags=_EXCLUSIVE)
        lock.acquire()
    except portalocker.exceptions.LockException:
        raise StoreError(f"another search is running in {folder}; wait for it or choose another folder") from None
    remove_parts(folder)  # of a search that was killed while it wrote
    try:
        yield
    finally:
        lock.release()


def held(folder: Path) -> bool | None:
    """Whether a search has the folder's lock; None where that cannot be known. Changes nothing there.

    Between hosts it depends on the file system whether a lock is seen.
    """
    try:
        with open(folder / FILE, "rb") as file:
            portalocker.lock(file, _SHARED)
            portalocker.unlock(file)
    except FileNotFoundError:
        return False
    except portalocker.exceptions.LockException as error:
        reason = error.args[0] if error.args else None
        taken = isinstance(error, portalocker.exceptions.AlreadyLocked)
        return True if taken or getattr(reason, "errno", None) in (errno.EAGAIN, errno.EACCES) else None
    except OSError:
        return None
    return False
