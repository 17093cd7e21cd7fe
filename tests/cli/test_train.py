import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from paramap_d2.cli import train, train_lazy

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [train, train_lazy])
def test_options_are_detectron2s(command):
    """Its parser cannot be asked before torch is imported."""
    theirs, ours = default_argument_parser()._actions, command.build_parser()._actions
    assert [a.option_strings for a in theirs] == [a.option_strings for a in ours]
    for their, our in zip(theirs, ours, strict=True):
        assert (their.dest, their.nargs, type(their)) == (our.dest, our.nargs, type(our))
        if their.dest != "config_file":  # ours is required
            assert their.default == our.default


@pytest.mark.parametrize("command, option", [("train", "NO.SUCH"), ("train-lazy", "train.no.such=1")])
def test_runs_the_projects_script_from_any_folder(tmp_path, command, option):
    config = {
        "train": "shapes_retinanet_R_18_FPN.yaml",
        "train-lazy": "lazy/shapes_retinanet_R_18_FPN.py",
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "paramap_d2", command, "--config-file"]
        + [str(ROOT / "projects" / "ParamAP" / "configs" / config), option, *(["1"] if command == "train" else [])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: config option ") and option in done.stderr
    assert done.stderr.count("\n") == 1  # no warning of others either
    assert not list(tmp_path.iterdir())
