"""A search in the terminal, fresh while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .life import overview
from .store import StoreError

EVERY = 2.0
"""Seconds between two looks."""


def watch(output: str | os.PathLike[str], console: Console, every: float = EVERY) -> None:
    """Tell what :func:`paramap_d2.search.life.overview` tells, again and again until the search has ended. Where the
    console is no terminal, a line for each change in how many evaluations have ended, and the whole at the end.

    Raises:
        StoreError: no search is there, or its store cannot be read when the watch begins.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            _look(output, every, lambda text: live.update(Text(text), refresh=True))
        return
    said = ""

    def say(text: str) -> None:
        nonlocal said
        line = next((line for line in text.splitlines() if line.startswith("evaluations")), said)
        if line != said:
            console.print(line, highlight=False, soft_wrap=True)
        said = line

    console.print(_look(output, every, say), highlight=False, markup=False, soft_wrap=True)


def _look(output: str | os.PathLike[str], every: float, show: Callable[[str], None]) -> str:
    """Look until the search has ended; what was seen last."""
    life, text = overview(output)
    show(text)
    while life.alive:
        time.sleep(every)
        try:
            life, text = overview(output)
        except StoreError as error:  # the next look may have more luck
            show(f"{text}\n{error}")
        else:
            show(text)
    return text
