"""A copy of a store to read from: whoever only looks leaves nothing in a search's folder and never is in its way.

SQLite's own readers of a WAL file need a ``-shm`` beside it, which they make where there is none, cannot make where the
folder is read-only, and share with no other host.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 20
"""At a copy between two checkpoints of the writer; it makes one in about a thousand rows."""


@contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """A copy of the SQLite file as of its last commit, in a folder that goes at the end.

    The file changes at a checkpoint alone, and its WAL is only added to until the next: with the file as it was before
    while both were copied, they belong together. What of the WAL is half copied, SQLite passes over.

    Raises:
        OSError: the file cannot be read, or there is no room for the copy.
    """
    wal = Path(f"{path}-wal")
    with tempfile.TemporaryDirectory(prefix="paramap_") as folder:
        copy = Path(folder) / path.name
        for _ in range(TRIES):
            before = _stamp(path)
            shutil.copyfile(path, copy)
            try:
                shutil.copyfile(wal, f"{copy}-wal")
            except FileNotFoundError:  # the writer has ended, and everything is in the file
                Path(f"{copy}-wal").unlink(missing_ok=True)
            if _stamp(path) == before:
                break
        yield copy


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns
