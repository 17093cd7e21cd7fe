"""What a proxy leaves beside its outcome."""

import json
import os
from pathlib import Path

import pytest
from detectron2.engine import SimpleTrainer

from paramap_d2.losses import load_loss
from paramap_d2.modeling import BoxAPLoss
from paramap_d2.search.proxies import proxy as module
from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace

RETINANET = Path(__file__).parents[3] / "projects" / "ParamAP" / "configs" / "shapes_retinanet_R_18_FPN.yaml"
LAZY = RETINANET.parent / "lazy" / "shapes_retinanet_R_18_FPN.py"
LAZY_TINY = [
    "dataloader.train.dataset.names=tiny_train",
    "dataloader.test.dataset.names=tiny_val",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.train.total_batch_size=2",
    "train.max_iter=2",
    "lr_multiplier.warmup_iters=0",
]
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
    final = Task(2, 3, SPACE.identity(), 5, "final", iterations=1)
    outcome = proxy(final)
    assert (outcome.iterations, outcome.planned) == (1, 1)
    assert [(t["iteration"], t["planned"], t["phase"]) for t in told] == [(2, 2, "evaluating"), (1, 1, "evaluating")]
    assert all(0 < t["loss"] < 2 for t in told)
    assert final.name.startswith("g002_003_s5_1_")
    assert sorted(os.listdir(finalists)) == [f"final_{final.name}.json", f"final_{final.name}.pth"]
    assert SPACE.encode(load_loss(finalists / f"final_{final.name}.json")) == pytest.approx(SPACE.identity())
    model = Trainer.build_model(read_config(RETINANET, tiny))
    weights = str(finalists / f"final_{final.name}.pth")
    DetectionCheckpointer(model).load(weights)
    kept = torch.load(weights, weights_only=True)["model"]
    assert all((value == kept[name]).all() for name, value in model.state_dict().items())

    confirming = Task(2, 3, SPACE.identity(), 9, "confirm", iterations=1)
    (finalists / f"confirm_{confirming.name}.pth").mkdir()  # cannot be written there
    outcome = proxy(confirming)
    assert outcome.iterations == 1 and outcome.status in ("finished", "no detections")


@pytest.mark.parametrize("lazy", [False, True])
def test_it_trains_with_the_genomes_loss_from_the_tasks_seed(tmp_path, tiny, monkeypatch, lazy):
    config = read_proxy_config(LAZY, LAZY_TINY) if lazy else read_proxy_config(RETINANET, tiny)
    proxy = Proxy(config, SPACE, "AP", str(tmp_path))
    terms_of, seen = BoxAPLoss.__call__, []

    def recorded(loss, *args):
        terms = terms_of(loss, *args)
        seen.append((Path(loss.loss), float(terms[0]), float(terms[1])))
        return terms

    monkeypatch.setattr(BoxAPLoss, "__call__", recorded)

    def first_step(place, genome, seed):
        seen.clear()
        proxy(Task(0, place, genome, seed))
        path, *terms = seen[0]
        assert len(seen) == 2 and SPACE.encode(load_loss(path)) == pytest.approx(genome, abs=1e-6)
        return terms

    one = first_step(0, SPACE.identity(), 5)
    assert first_step(1, SPACE.identity(), 5) == one
    assert first_step(2, SPACE.encode(load_loss("retinanet-coco")), 5) != one
    assert first_step(3, SPACE.identity(), 6) != one


def test_losses_that_are_gathered_now_and_then(tmp_path, tiny, monkeypatch):
    """As by SimpleTrainer's gather_metric_period."""
    monkeypatch.setattr(SimpleTrainer, "write_metrics", staticmethod(lambda *args, **options: None))
    outcome = Proxy(read_proxy_config(RETINANET, tiny), SPACE, "AP", str(tmp_path))(Task(0, 0, SPACE.identity(), 5))
    assert outcome.status in ("finished", "no detections") and not outcome.error.startswith("KeyError")
    assert outcome.iterations == outcome.planned == 2
