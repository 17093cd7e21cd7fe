"""A search in the terminal, fresh while it runs."""

from __future__ import annotations

import os
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .life import overview
from .store import StoreError

EVERY = 2.0
"""Seconds between two looks."""


def watch(output: str | os.PathLike[str], console: Console, every: float = EVERY) -> None:
    """Tell what :func:`paramap_d2.search.life.overview` tells, again and again until the search has ended. Where the
    console is no terminal, a line for each change in how many evaluations have ended and the whole at the end.

    Raises:
        StoreError: no search is there, or its store cannot be read when the watch begins.
    """
    life, text = overview(output)
    with Live(Text(text), console=console, auto_refresh=False, vertical_overflow="crop") as shown:
        said = ""
        while life.alive:
            if not console.is_terminal and (line := _evaluations(text)) != said:
                said = line
                console.print(line, highlight=False, soft_wrap=True)
            time.sleep(every)
            try:
                life, text = overview(output)
            except StoreError as error:  # the next look may have more luck
                shown.update(Text(f"{text}\n{error}"), refresh=True)
            else:
                shown.update(Text(text), refresh=True)


def _evaluations(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("evaluations"))
