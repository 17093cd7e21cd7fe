import sys
from pathlib import Path

import pytest
import torch

from paramap_d2.losses import parameterized_ap, quality_functions, ranking_sums, small_arrays

# The tests of this folder share its reference.py, cases.py and ranks.py.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# The benchmark of the loss, which some of them measure by, has its other losses in a file beside it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def without_numpy(monkeypatch):
    """The way that a GPU takes, on a CPU."""
    for module in (parameterized_ap, quality_functions, ranking_sums):
        monkeypatch.setattr(module, "arrays_on", small_arrays.Torch)
    ranking_sums._breakpoints.cache_clear()
    yield
    ranking_sums._breakpoints.cache_clear()
