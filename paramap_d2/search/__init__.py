"""The search for a loss: algorithm, proxy trainings, executors, and the store of what happened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


def load(output: str | os.PathLike[str]) -> pandas.DataFrame:
    """The evaluations of the search in a folder as a table: see :func:`paramap_d2.search.export.load`."""
    from .export import load  # torch and pandas are for those alone who ask

    return load(output)
