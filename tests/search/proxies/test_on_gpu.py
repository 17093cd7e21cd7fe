"""Proxies on a GPU, pretended where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paramap_d2.losses import load_loss
from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Store

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "projects" / "ParamAP" / "configs"
FILES = {"yaml": "shapes_retinanet_R_18_FPN.yaml", "lazy": "lazy/shapes_retinanet_R_18_FPN.py"}
KINDS = pytest.mark.parametrize("kind", FILES)


class Killed(BaseException):
    pass


@KINDS
def test_one_that_is_cut_off_goes_on(kind, tiny, lazy_tiny, tmp_path, gpu, monkeypatch):
    from detectron2.engine import SimpleTrainer

    opts = {"yaml": [*tiny, "MODEL.DEVICE", gpu, "SOLVER.MAX_ITER", "4"]}
    opts["lazy"] = [*lazy_tiny, f"train.device={gpu}", "train.max_iter=4"]
    steps, real = [], SimpleTrainer.run_step

    def run_step(self):
        real(self)
        assert all(p.device.type == gpu for p in self.model.parameters())
        steps.append(self.iter)
        if len(steps) == 3:
            raise Killed

    monkeypatch.setattr(SimpleTrainer, "run_step", run_step)
    space = SearchSpace(("dense",))
    config = read_proxy_config(CONFIGS / FILES[kind], opts[kind])
    proxy = Proxy(config, space, "AP", str(tmp_path), checkpoint_every=2)
    with pytest.raises(Killed):
        proxy(Task(0, 0, space.identity(), 3))
    outcome = proxy(Task(0, 0, space.identity(), 3))
    assert steps == [0, 1, 2, 2, 3]
    assert (outcome.status, outcome.iterations) == ("finished", 4)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@KINDS
def test_a_search_on_two_workers(kind, tiny, lazy_tiny, tmp_path):
    """The config takes the GPU by itself."""
    opts = tiny if kind == "yaml" else [opt for opt in lazy_tiny if not opt.startswith("train.device")]
    words = ["evolve", "--config-file", CONFIGS / FILES[kind], "--output-dir", tmp_path / "out", "--workers", "2"]
    words += ["--threads", "1", "--population", "3", "--generations", "2", "--init", "linear", "--confirm", "1", *opts]
    command = [sys.executable, "-m", "paramap_d2", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "out" / "search.db", readonly=True) as store:
        rows = store.evaluations()
    assert all(row.status == "finished" for row in rows)
    assert all(torch.cuda.get_device_name() in row.versions["machine"] for row in rows)
    load_loss(tmp_path / "out" / "best.json")
