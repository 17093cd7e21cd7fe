"""Keys of Detectron2's own that a proxy cannot follow as they are: followed otherwise, and said."""

import logging
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from detectron2.modeling import BACKBONE_REGISTRY

from paramap_d2.config import ConfigError, parse_config
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file
from paramap_d2.search.proxies.config import read_proxy_config
from paramap_d2.search.proxies.failures import cause_of
from paramap_d2.search.store import FILE


def read(config, tiny, *opts, caplog):
    with caplog.at_level(logging.WARNING, "paramap_d2"):
        proxy = read_proxy_config(get_config_file(config), [*tiny, *opts])
    return proxy, parse_config(proxy.text)


def test_the_first_of_two_data_sets(tiny, caplog):
    both = ["DATASETS.TEST", "('tiny_val', 'tiny_train')"]
    _, cfg = read("shapes_retinanet_R_18_FPN.yaml", tiny, *both, caplog=caplog)
    assert cfg.DATASETS.TEST == ("tiny_val",)
    assert "DATASETS.TEST names 2 data sets: the fitness is of tiny_val alone" in caplog.text


def test_a_reference_world_size(tiny, caplog):
    _, cfg = read("shapes_retinanet_R_18_FPN.yaml", tiny, "SOLVER.REFERENCE_WORLD_SIZE", "2", caplog=caplog)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE) == (4, 1, 1)
    assert "REFERENCE_WORLD_SIZE 2: a proxy is one process, and trains 4 iterations of 1 images" in caplog.text


def test_augmentation_of_tests(tiny, caplog):
    _, cfg = read("shapes_faster_rcnn_R_18_FPN.yaml", tiny, "TEST.AUG.ENABLED", "True", caplog=caplog)
    assert not cfg.TEST.AUG.ENABLED
    assert "the fitness is without test-time augmentation" in caplog.text


def test_an_end_loss(tiny, caplog):
    plain, _ = read("shapes_retinanet_R_18_FPN.yaml", tiny, caplog=caplog)
    assert not caplog.text
    proxy, cfg = read("shapes_retinanet_R_18_FPN.yaml", tiny, "MODEL.PARAM_AP.END_LOSS", "best.json", caplog=caplog)
    assert cfg.MODEL.PARAM_AP.END_LOSS == "" and proxy.settings == plain.settings  # a search can be resumed without it
    assert "MODEL.PARAM_AP.END_LOSS: a fitness is that of one loss, and proxies train without it" in caplog.text


def test_an_end_loss_of_a_lazy_config(lazy_tiny, caplog):
    config = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
    plain = read_proxy_config(config, lazy_tiny)
    with caplog.at_level(logging.WARNING, "paramap_d2"):
        proxy = read_proxy_config(config, [*lazy_tiny, "train.end_loss=best.json"])
    assert "train.end_loss: a fitness is that of one loss" in caplog.text
    assert proxy._cfg(Path()).train.end_loss == "" and proxy.settings == plain.settings


def test_a_search_needs_no_data_to_calibrate_on(tiny, lazy_tiny):
    nowhere = [*tiny, "MODEL.PARAM_AP.CALIBRATE_ON", "nowhere"]
    assert read_proxy_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), nowhere).heads == ("dense",)
    lazy = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
    assert read_proxy_config(lazy, [*lazy_tiny, "train.calibrate_on=nowhere"]).heads == ("dense",)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_that_cannot_be_had(tiny, lazy_tiny, lazy, monkeypatch, tmp_path):
    def offline(*args, **options):
        raise URLError("no network")

    monkeypatch.setattr(DetectionCheckpointer, "load", offline)
    config = get_config_file("lazy/shapes_retinanet_R_18_FPN.py" if lazy else "shapes_retinanet_R_18_FPN.yaml")
    key, url = ("train.init_checkpoint", "MODEL.WEIGHTS")[not lazy], "detectron2://some/R-50.pkl"
    proxy = read_proxy_config(config, [*lazy_tiny, f"{key}={url}"] if lazy else [*tiny, key, url])
    with pytest.raises(UserError, match=f"{key} is {url}, which cannot be read .*no network.*: name a file") as raised:
        proxy.train(Path("linear"), tmp_path, 0, None)
    assert cause_of(raised.value) == FILE


def test_a_gradient_scale_that_would_take_every_losses_place(tiny, lazy_tiny):
    with pytest.raises(UserError, match=r"MODEL.PARAM_AP.GRAD_SCALE is 4 .*--fix-grad-scale 4 "):
        read_proxy_config(
            get_config_file("shapes_retinanet_R_18_FPN.yaml"), [*tiny, "MODEL.PARAM_AP.GRAD_SCALE", "4.0"]
        )
    lazy = get_config_file("lazy/shapes_retinanet_R_18_FPN.py")
    with pytest.raises(UserError, match=r"model.param_ap.grad_scale is 0.5 .*--fix-grad-scale 0.5 "):
        read_proxy_config(lazy, [*lazy_tiny, "model.param_ap.grad_scale=0.5"])


@pytest.mark.parametrize("enabled", [False, True])
def test_precise_bn(tiny, caplog, enabled, tmp_path):
    opts = ["TEST.PRECISE_BN.ENABLED", str(enabled), "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]
    proxy, cfg = read("shapes_retinanet_R_18_FPN.yaml", tiny, *opts, caplog=caplog)
    assert not caplog.text
    cfg.OUTPUT_DIR = str(tmp_path)
    trainer = proxy._trainer(cfg)(cfg)
    assert any(isinstance(hook, hooks.PreciseBN) for hook in trainer._hooks) == enabled


@pytest.mark.parametrize(
    "config, opts",
    [
        ("shapes_retinanet_R_18_FPN.yaml", ["MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", "True"]),
        ("lazy/shapes_retinanet_R_18_FPN.py", ["train.device=cuda", "train.amp.enabled=True"]),
    ],
)
def test_gpus_of_a_cluster_are_not_looked_for_here(config, opts, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="is cuda, and torch sees no GPU"):
        read_proxy_config(get_config_file(config), opts)
    assert read_proxy_config(get_config_file(config), opts, elsewhere=True).heads == ("dense",)


def test_a_trainers_module_may_register_what_the_config_names(tmp_path, monkeypatch):
    (tmp_path / "own_trainer_toy.py").write_text(
        "from detectron2.modeling import BACKBONE_REGISTRY\n"
        "from paramap_d2.engine import Trainer as Stock\n"
        "@BACKBONE_REGISTRY.register()\n"
        "def own_backbone_toy(cfg, shape): ...\n"
        "class Trainer(Stock): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    opts = ["PROXY.TRAINER", "own_trainer_toy:Trainer", "MODEL.BACKBONE.NAME", "own_backbone_toy"]
    try:
        assert read_proxy_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), opts).own_evaluator
    finally:
        BACKBONE_REGISTRY._obj_map.pop("own_backbone_toy", None)
        sys.modules.pop("own_trainer_toy", None)
