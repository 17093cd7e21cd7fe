"""What a search may claim, in small: see benchmarks/selection.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "selection.py"


@pytest.fixture(scope="module")
def selection():
    specification = importlib.util.spec_from_file_location("selection", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    sys.modules["selection"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["selection"]


@pytest.mark.parametrize("algorithm", ["ga", "cmaes"])
def test_a_confirmed_gain_can_be_believed_and_the_highest_seen_cannot(selection, algorithm):
    cell = selection.Cell(algorithm, "1.5", 64)
    found = selection.summary([selection.simulate(cell, run) for run in range(60)])
    assert found["seen bias"] > 2 and found["seen worse"] > 0.2
    # Standard error of the bias: 1.5·√(2/3)/√60 = 0.16; of a coverage of 95 %: 0.03.
    assert abs(found["bias"]) < 0.5 and found["covered"] >= 0.87
    assert found["gain"] > 0.1 and found["worse"] <= 0.1 and found["true"] > found["seen"]


def test_runs_are_kept_and_not_made_again(selection, tmp_path, capsys, monkeypatch):
    few = ["--folder", str(tmp_path), "--algorithm", "random", "--noise", "diverging", "--budget", "16"]
    tables = []
    for arguments in (["--runs", "3"], ["--runs", "3", "--only-table"], ["--runs", "4"]):
        monkeypatch.setattr("sys.argv", ["selection.py", *few, *arguments])
        selection.main()
        tables.append(capsys.readouterr().out)
    (kept,) = tmp_path.iterdir()
    assert tables[0] == tables[1] != tables[2] and len(kept.read_text().splitlines()) == 4
    assert "| `random` | diverging | 16 |" in tables[2]
