import sys
from pathlib import Path

# The tests of this folder share fake_proxies.py, which worker processes import too.
sys.path.insert(0, str(Path(__file__).parent))
