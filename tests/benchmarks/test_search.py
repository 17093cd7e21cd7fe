import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search.py"


def test_the_proxy_that_does_nothing():
    command = [sys.executable, str(BENCHMARK), "--evaluations", "30", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"process, 1 workers: 30 evaluations .* in [\d.]+ s, \d+ a minute\n", done.stdout)


def test_before_needs_a_config_that_train_net_takes():
    for given in ([], ["--config-file", "config.py"]):
        done = subprocess.run([sys.executable, str(BENCHMARK), "--before", *given], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith("--before needs --config-file with a YAML config")


@pytest.mark.slow
def test_trainings_before_and_in_a_search(tiny):
    config = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs" / "shapes_retinanet_R_18_FPN.yaml"
    command = [sys.executable, str(BENCHMARK), "--before", "--population", "2", "--config-file", str(config), *tiny]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        "train_net.py, 1 at a time",
        "train_net.py, 2 at a time",
        "1 worker",
        "2 workers",
    ]
    assert "2 proxies (0 failed)" in lines[2] and lines[4].startswith("two workers do ")
