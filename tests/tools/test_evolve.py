import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "projects/ParamAP/configs/shapes_retinanet_R_18_FPN.yaml"


def evolve(*args):
    return subprocess.run(
        [sys.executable, "tools/evolve.py", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_help_has_examples():
    done = evolve("--help")
    assert done.returncode == 0 and "examples:" in done.stdout and "--resume" in done.stdout


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["--config-file", "nowhere.yaml"], 2, "error: config file nowhere.yaml does not exist"),
        (["--config-file", CONFIG, "--population", "0"], 2, "error: population must be at least 2, not 0"),
        (["--config-file", CONFIG, "--algorithm", "luck"], 2, "invalid choice: 'luck'"),
        (["--config-file", CONFIG, "NO.SUCH", "1"], 2, "error: config option NO.SUCH 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, args, code, message):
    done = evolve("--output-dir", tmp_path / "out", *args)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "search.db").exists()
