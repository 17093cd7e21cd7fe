"""A proxy that several processes train together, here by gloo: its outcome, whatever becomes of one of them."""

import os
import sys

import pytest

from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file
from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.distributed import DistributedProxy
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import FAILED, FINISHED, KILLED, MEMORY, NO_DETECTIONS, STOPPED

CONFIG = get_config_file("shapes_retinanet_R_18_FPN.yaml")
LAZY = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
SPACE = SearchSpace(("dense",))

TRAINER = """
import json, os, signal
from functools import partial
from pathlib import Path
import torch
from detectron2.engine import defaults
from detectron2.utils import comm
from paramap_d2.engine import Trainer

defaults.create_ddp_model = partial(defaults.create_ddp_model, device_ids=None)  # its own are of GPUs alone

class Faulty(Trainer):
    # What is to go wrong, and in which iteration, is in a file; in rank 1.

    def run_step(self):
        super().run_step()
        fault, iteration = json.loads(Path(os.environ["FAULT"]).read_text())
        weight = next(p for p in self.model.parameters() if p.requires_grad)
        with open(os.environ["FAULT"] + f".weights{comm.get_rank()}", "a") as file:
            file.write(f"{self.iter} {weight.double().sum().item()!r}\\n")
        if comm.get_rank() == 1 and self.iter == iteration:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "aborts at its end":
                torch.distributed.destroy_process_group = os.abort
                return
            raise MemoryError("none left in rank 1")
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch, tiny):
    """Makes a proxy of two processes and a function that says what is to go wrong in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FAULT", str(tmp_path / "fault"))
    (tmp_path / "faulty_trainer.py").write_text(TRAINER)
    opts = [*tiny, "SOLVER.MAX_ITER", "6", "PROXY.TRAINER", "faulty_trainer:Faulty"]
    config = read_proxy_config(CONFIG, opts, processes=2)

    def make(folder):
        return DistributedProxy(Proxy(config, SPACE, "AP", str(tmp_path / folder), checkpoint_every=2), 2)

    def goes_wrong(what="nothing", iteration=-1):
        (tmp_path / "fault").write_text(f'["{what}", {iteration}]')
        for rank in (0, 1):
            (tmp_path / f"fault.weights{rank}").unlink(missing_ok=True)

    def weights():
        return [(tmp_path / f"fault.weights{rank}").read_text().splitlines() for rank in (0, 1)]

    yield make, goes_wrong, weights
    sys.modules.pop("faulty_trainer", None)


@pytest.mark.slow
def test_a_rank_that_is_killed_costs_an_attempt_and_the_next_goes_on_to_the_same(faulty, tmp_path):
    make, goes_wrong, weights = faulty
    task = Task(0, 0, SPACE.identity(), 3, checkpoints=[(0.5, None)])
    goes_wrong()
    whole = make("whole")(task)
    expected = weights()
    assert whole.status in (FINISHED, NO_DETECTIONS), whole
    assert (whole.iterations, whole.planned, [at for at, _ in whole.curve]) == (6, 6, [3])
    assert expected[0] == expected[1] and len(expected[0]) == 6  # both have seen the gradients of both
    assert sorted(os.listdir(tmp_path / "whole" / task.name)) == ["log.txt", "log_rank1.txt", "loss.json"]

    proxy = make("cut")
    goes_wrong("killed", 4)
    killed = proxy(task)
    assert (killed.status, killed.cause) == (FAILED, KILLED)
    assert killed.error == "a process of the proxy was killed by SIGKILL"
    goes_wrong()
    again = proxy(Task(0, 0, SPACE.identity(), 3, checkpoints=[(0.5, None)], attempt=2))
    assert weights() == [expected[0][4:], expected[1][4:]]
    assert (again.status, again.fitness, again.metrics, again.curve) == (
        whole.status,
        whole.fitness,
        whole.metrics,
        whole.curve,
    )


@pytest.mark.slow
def test_the_rank_that_fails_is_heard(faulty):
    make, goes_wrong, _ = faulty
    goes_wrong("memory", 1)
    outcome = make("failing")(Task(0, 0, SPACE.identity(), 3))
    assert (outcome.status, outcome.cause) == (FAILED, MEMORY)
    assert "none left in rank 1" in outcome.error and "none left in rank 1" in outcome.log


@pytest.mark.slow
def test_what_all_ranks_came_to_stands_though_one_aborts_after_it(faulty):
    make, goes_wrong, _ = faulty
    goes_wrong("aborts at its end", 1)
    outcome = make("aborting")(Task(0, 0, SPACE.identity(), 3))
    assert outcome.status in (FINISHED, NO_DETECTIONS) and outcome.iterations == 6, outcome


@pytest.mark.slow
def test_all_ranks_end_a_hopeless_training(tiny, tmp_path):
    opts = ["dataloader.train.dataset.names=tiny_train", "dataloader.test.dataset.names=tiny_val", "train.max_iter=6"]
    config = read_proxy_config(LAZY, [*opts, "+train.ddp.device_ids=null"], processes=2)
    proxy = DistributedProxy(Proxy(config, SPACE, "AP", str(tmp_path)), 2)
    outcome = proxy(Task(0, 0, SPACE.identity(), 3, checkpoints=[(0.5, 101.0)]))
    assert (outcome.status, outcome.iterations, outcome.planned) == (STOPPED, 3, 6)
    assert outcome.curve == [[3, outcome.fitness]] and "101.00 is needed" in outcome.error


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_what_a_search_is_told_of_them(tiny, caplog, kind):
    key = {"yaml": "SOLVER.IMS_PER_BATCH", "lazy": "dataloader.train.total_batch_size"}[kind]
    config, opts = CONFIG, tiny
    if kind == "lazy":
        config = LAZY
        opts = ["dataloader.train.dataset.names=tiny_train", "dataloader.test.dataset.names=tiny_val", f"{key}=2"]
    with pytest.raises(UserError, match=f"^{key} 2 must be a multiple of --gpus-per-proxy 3$"):
        read_proxy_config(config, opts, processes=3)
    assert "--gpus-per-proxy" not in read_proxy_config(config, opts).settings
    assert read_proxy_config(config, opts, processes=2).settings["--gpus-per-proxy"] == "2"
    if kind == "yaml":
        read_proxy_config(config, [*opts, "SOLVER.REFERENCE_WORLD_SIZE", "1"], processes=2)
        assert "REFERENCE_WORLD_SIZE 1: a proxy is 2 processes, and trains 1 iterations of 4 images" in caplog.text
