import sys
from pathlib import Path

# The tests of this folder share detectors.py; the reference of the loss is in tests/losses.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "losses"))
