import sys
from pathlib import Path

import pytest
import torch

# The tests of this folder share its reference.py and cases.py.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# The benchmark of the loss, which some of them measure by, has its other losses in a file beside it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
