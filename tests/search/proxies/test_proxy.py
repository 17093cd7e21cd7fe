"""What a proxy leaves beside its outcome."""

import json
import os
from pathlib import Path

import pytest

from paramap_d2.losses import load_loss
from paramap_d2.search.proxies import proxy as module
from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace

RETINANET = Path(__file__).parents[3] / "projects" / "ParamAP" / "configs" / "shapes_retinanet_R_18_FPN.yaml"
SPACE = SearchSpace(("dense",))


def test_it_tells_how_far_it_is_and_keeps_a_finalists_weights(tmp_path, tiny, monkeypatch):
    import torch
    from detectron2.checkpoint import DetectionCheckpointer

    from paramap_d2.config import read_config
    from paramap_d2.engine import Trainer

    told = []
    remove = module.TrainingProgress.remove

    def read_and_remove(self):
        told.append(json.loads(next(running.iterdir()).read_text()))
        remove(self)

    monkeypatch.setattr(module.TrainingProgress, "remove", read_and_remove)
    running, finalists = tmp_path / "running", tmp_path / "finalists"
    running.mkdir()
    proxy = Proxy(
        read_proxy_config(RETINANET, tiny),
        SPACE,
        "AP",
        str(tmp_path / "evaluations"),
        running=str(running),
        finalists=str(finalists),
    )
    proxy(Task(2, 3, SPACE.identity(), 5))
    assert not finalists.exists() and not list(running.iterdir())
    outcome = proxy(Task(2, 3, SPACE.identity(), 5, "final", iterations=1))
    assert (outcome.iterations, outcome.planned) == (1, 1)
    assert [(t["iteration"], t["planned"], t["phase"]) for t in told] == [(2, 2, "evaluating"), (1, 1, "evaluating")]
    assert all(0 < t["loss"] < 2 for t in told)
    assert sorted(os.listdir(finalists)) == ["final_g002_003_s5_1.json", "final_g002_003_s5_1.pth"]
    assert SPACE.encode(load_loss(finalists / "final_g002_003_s5_1.json")) == pytest.approx(SPACE.identity())
    model = Trainer.build_model(read_config(RETINANET, tiny))
    weights = str(finalists / "final_g002_003_s5_1.pth")
    DetectionCheckpointer(model).load(weights)
    kept = torch.load(weights, weights_only=True)["model"]
    assert all((value == kept[name]).all() for name, value in model.state_dict().items())

    (finalists / "confirm_g002_003_s9_1.pth").mkdir()  # cannot be written there
    outcome = proxy(Task(2, 3, SPACE.identity(), 9, "confirm", iterations=1))
    assert outcome.iterations == 1 and outcome.status in ("finished", "no detections")
