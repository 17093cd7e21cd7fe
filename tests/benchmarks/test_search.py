import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search.py"


def test_the_proxy_that_does_nothing():
    command = [sys.executable, str(BENCHMARK), "--evaluations", "30", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"process, 1 workers: 30 evaluations .* in [\d.]+ s, \d+ a minute\n", done.stdout)
