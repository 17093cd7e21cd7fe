"""Output folders, and files that readers find whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError


def make_output_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder that a command leaves its results in, unless it is there.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{os.fspath(folder)} cannot be the output folder ({error.strerror}); choose another one"
        raise UserError(message) from None


def write_whole(path: str | os.PathLike[str], content: bytes | Callable[[Path], object]) -> None:
    """Write a file so that readers find the old one or the new one and never a part. Its mode is the umask's.

    Args:
        content: what it shall hold, or a function that writes it to the path that it is given.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content) if isinstance(content, bytes) else content(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that another process writes or removes; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder. Nothing else may be writing there."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
