"""The modules of the benchmark of the paper's tables, and a training of theirs."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from .made_up import BENCHMARKS

PARTS = ("rows", "plans", "training", "text", "tables")


@pytest.fixture
def paper(monkeypatch):
    """The benchmark's modules, as its script sees them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield SimpleNamespace(**{part: importlib.import_module(f"paper_{part}") for part in PARTS})
    for part in PARTS:
        del sys.modules[f"paper_{part}"]


@pytest.fixture
def training(paper):
    return paper.rows.Training("bccd", "retinanet", "retinanet-coco", 0.001, 0, 1500)
