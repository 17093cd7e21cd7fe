import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paramap_d2.search.store import Store

ROOT = Path(__file__).parents[2]
CONFIG = "projects/ParamAP/configs/shapes_retinanet_R_18_FPN.yaml"


def evolve(*args):
    return subprocess.run(
        [sys.executable, "-m", "paramap_d2", "evolve", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["--config-file", "nowhere.yaml"], 2, "error: config file nowhere.yaml does not exist"),
        (["--config-file", CONFIG, "--population", "0"], 2, "error: --population: must be at least 1, not 0"),
        (["--config-file", CONFIG, "--algorithm", "luck"], 2, "error: --algorithm: invalid choice: 'luck'"),
        (["--config-file", CONFIG, "NO.SUCH", "1"], 2, "error: config option NO.SUCH 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, args, code, message):
    done = evolve("--output-dir", tmp_path / "out", *args)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "search.db").exists()


def rows(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return store.evaluations()


def test_ctrl_c_before_there_is_a_search_promises_none(tmp_path, monkeypatch):
    from paramap_d2.cli.evolve import main

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("paramap_d2.search.session.run_search", interrupted)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    arguments = ["--config-file", CONFIG, "--output-dir", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt, match="^nothing had begun$"):
        main(arguments)
    (tmp_path / "search.db").touch()
    with pytest.raises(KeyboardInterrupt, match="^what has ended is kept, go on with --resume "):
        main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_records_what_ran_and_is_made_good(tmp_path, tiny, how):
    opts = [*tiny, "SOLVER.MAX_ITER", "2000"]  # far longer than the test waits
    args = ["--config-file", CONFIG, "--population", "2", "--generations", "1", "--workers", "2"]
    command = [sys.executable, "-m", "paramap_d2", "evolve", *args, "--output-dir", str(tmp_path / "out")]
    search = subprocess.Popen([*command, *opts], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    logs = tmp_path / "out" / "evaluations"
    while not len([log for log in logs.glob("*/log.txt") if "iteration 0 " in log.read_text()]) == 2:
        assert search.poll() is None, search.stderr.read()
        time.sleep(0.2)
    search.send_signal(how)
    _, error = search.communicate()
    assert search.returncode == 130
    assert "interrupted; what has ended is kept, go on with --resume" in error and "Traceback" not in error
    assert [e.status for e in rows(tmp_path / "out")] == ["interrupted"] * 2
    assert (tmp_path / "out" / "report.html").exists()
    # The same search, other than that its config is another one: it is refused, and the store is as it was.
    done = evolve("--output-dir", tmp_path / "out", "--resume", *args, *tiny)
    assert done.returncode == 2 and "SOLVER.MAX_ITER was 2000 there and is 2 now" in done.stderr
    assert len(rows(tmp_path / "out")) == 2
