"""A proxy that is cut off goes on where it was, to the AP that it would have had."""

from pathlib import Path

import pytest

from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace

CONFIGS = Path(__file__).parents[3] / "projects" / "ParamAP" / "configs"
LAZY = ["dataloader.train.dataset.names=tiny_train", "dataloader.test.dataset.names=tiny_val", "train.max_iter=6"]
SPACE = SearchSpace(("dense",))


class Killed(BaseException):
    pass


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_a_proxy_that_is_cut_off_goes_on_to_the_same_weights(tmp_path, tiny, monkeypatch, kind):
    from detectron2.engine import SimpleTrainer

    name, opts = "shapes_retinanet_R_18_FPN.yaml", [*tiny, "SOLVER.MAX_ITER", "6"]
    if kind == "lazy":
        name, opts = "lazy/shapes_retinanet_R_18_FPN.py", LAZY
    config = read_proxy_config(CONFIGS / name, opts)
    steps, ends = [], {}
    real = SimpleTrainer.run_step

    def run_step(self):
        real(self)
        steps.append(self.iter)
        ends[self.iter] = weights(self.model)
        if len(steps) == kill:
            raise Killed

    monkeypatch.setattr(SimpleTrainer, "run_step", run_step)
    task = Task(0, 0, SPACE.identity(), 3)
    kill = None
    whole = Proxy(config, SPACE, "AP", str(tmp_path / "whole"))(task)
    expected = ends[5]
    assert steps == list(range(6))

    proxy = Proxy(config, SPACE, "AP", str(tmp_path / "cut"), checkpoint_every=2)
    steps.clear()
    kill = 5
    with pytest.raises(Killed):
        proxy(task)
    (kept,) = (tmp_path / "cut").rglob("checkpoint.*")
    kill = None
    steps.clear()
    again = proxy(task)
    assert steps == [4, 5]  # from the state after four iterations
    assert all((ends[5][key] == value).all() for key, value in expected.items())
    assert (again.status, again.fitness, again.metrics) == (whole.status, whole.fitness, whole.metrics)
    assert not kept.exists()


def test_the_state_of_another_training_is_passed_over(tmp_path, tiny):
    import torch

    config = read_proxy_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml", tiny)
    state = Proxy(config, SPACE, "AP", str(tmp_path), checkpoint_every=2)._checkpoint(Task(0, 0, SPACE.identity(), 3))
    state.path.parent.mkdir()
    torch.save({"identity": "another"}, state.path)
    assert state.load(None, True) == (0, {})
