"""Configs that a search can train as proxies: YAML configs and LazyConfigs, alike to the rest of the search.

Both hold plain values, to be sent to worker processes, and import Detectron2 only when they are read or trained.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from paramap_d2.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import HookBase


Results = Mapping[str, Mapping[str, float]]
"""An evaluator's figures by task, such as ``{"bbox": {"AP": 31.2, …}}``."""

Watch = Callable[[Callable[[], Results]], "HookBase"]


class ProxyConfig(Protocol):
    """A config with its proxy options merged."""

    heads: tuple[str, ...]  # of the loss file that the detector trains with
    loss: str  # the preset or loss file that the config names
    loss_keys: list[str]  # the config's keys that name it
    settings: Mapping[str, str]  # everything that makes two searches the same, by key

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        """Train from the seed with a loss file, without checkpoints or events; the figures on the test data.

        Args:
            watch: makes a hook of the training, which it gives a function that evaluates the model as it is.
            iterations: instead of the config's own.
        """
        ...


def read_proxy_config(config_file: str | os.PathLike[str], opts: Sequence[str] = ()) -> ProxyConfig:
    """A config file (.py: a LazyConfig) with its proxy options and those given, which have the last word.

    Raises:
        UserError: it cannot be read, its data is not there, its detector has no loss to search, nothing evaluates it.
    """
    kind = LazyProxyConfig if os.fspath(config_file).endswith(".py") else YamlProxyConfig
    return kind.read(config_file, opts)


@dataclass(frozen=True)
class YamlProxyConfig:
    """A Detectron2 config; its proxy options are PROXY.OPTS."""

    text: str
    heads: tuple[str, ...]
    loss: str
    settings: Mapping[str, str]
    loss_keys = ["MODEL.PARAM_AP.LOSS"]

    @classmethod
    def read(cls, config_file: str | os.PathLike[str], opts: Sequence[str]) -> YamlProxyConfig:
        from paramap_d2.config import check_config, detector_heads, merge_options, read_config

        cfg = read_config(config_file, opts)
        merge_options(cfg, cfg.PROXY.OPTS)
        merge_options(cfg, opts)
        cfg.VIS_PERIOD = 0
        heads = detector_heads(cfg)
        if not heads:
            raise _no_loss(config_file, cfg.MODEL.META_ARCHITECTURE)
        check_config(cfg)
        if not cfg.DATASETS.TEST:
            raise UserError("DATASETS.TEST names no data set, and a fitness needs one")
        own = ("OUTPUT_DIR", "SEED", "MODEL.DEVICE", "PROXY.OPTS", *cls.loss_keys)
        return cls(cfg.dump(), heads, cfg.MODEL.PARAM_AP.LOSS, _without(_flat(cfg), own))

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        from detectron2.engine import hooks
        from detectron2.utils.env import seed_all_rng

        from paramap_d2.config import parse_config
        from paramap_d2.data import build_evaluator
        from paramap_d2.engine import Trainer
        from paramap_d2.engine.cpu_speed import SameSizeBatches, fast_training

        class ProxyTrainer(Trainer):
            def build_hooks(self) -> list[HookBase]:
                return [hooks.LRScheduler()]

            @classmethod
            def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> Any:
                return build_evaluator(dataset_name, voc=False)  # the fitness is one of COCO's figures; no files

            @classmethod
            def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
                loader = super().build_test_loader(cfg, dataset_name)
                fast = cfg.MODEL.PARAM_AP.FAST_CPU
                return SameSizeBatches(loader, cfg.SOLVER.IMS_PER_BATCH) if fast else loader

        cfg = parse_config(self.text)
        cfg.MODEL.PARAM_AP.LOSS = str(loss_file)
        cfg.OUTPUT_DIR = str(folder)
        cfg.SEED = seed
        cfg.SOLVER.MAX_ITER = iterations or cfg.SOLVER.MAX_ITER
        cfg.freeze()
        with fast_training() if cfg.MODEL.PARAM_AP.FAST_CPU else nullcontext():
            seed_all_rng(seed)
            trainer = ProxyTrainer(cfg)
            trainer.resume_or_load(resume=False)

            def evaluate() -> Results:
                results = trainer.test(cfg, trainer.model)
                return results[cfg.DATASETS.TEST[0]] if len(cfg.DATASETS.TEST) > 1 else results

            trainer.register_hooks([watch(evaluate)])
            trainer.train()
            return evaluate()


@dataclass(frozen=True)
class LazyProxyConfig:
    """A LazyConfig; its proxy options are proxy.opts."""

    pickled: bytes  # by cloudpickle, which knows lambdas and classes of the config file itself
    heads: tuple[str, ...]
    loss: str
    loss_keys: list[str]
    settings: Mapping[str, str]

    @classmethod
    def read(cls, config_file: str | os.PathLike[str], opts: Sequence[str]) -> LazyProxyConfig:
        import cloudpickle

        from paramap_d2.config import lazy as lazy_config

        cfg = lazy_config.read_lazy_config(config_file, opts)
        lazy_config.apply_options(cfg, cfg.proxy.opts)
        lazy_config.apply_options(cfg, opts)
        heads = lazy_config.detector_heads(cfg)
        if not heads:
            detector = lazy_config.target(cfg.model)
            raise _no_loss(config_file, getattr(detector, "__name__", str(detector)))
        lazy_config.check_lazy_config(cfg)
        for part in ("test", "evaluator"):
            if part not in cfg.dataloader:
                raise UserError(f"config {config_file} defines no dataloader.{part}, and a fitness needs one")
        keys = lazy_config.loss_keys(cfg)
        own = ("train.output_dir", "train.seed", "train.device", *keys)
        settings = {k: v for k, v in lazy_config.settings(cfg).items() if not k.startswith("proxy.opts")}
        loss = lazy_config.OmegaConf.select(cfg, keys[0])
        return cls(cloudpickle.dumps(cfg), heads, loss, keys, _without(settings, own))

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.utils.env import seed_all_rng

        from paramap_d2.config import lazy as lazy_config
        from paramap_d2.data import build_evaluator
        from paramap_d2.engine import lazy as lazy_training
        from paramap_d2.engine.cpu_speed import fast_training

        cfg = pickle.loads(self.pickled)
        lazy_config.set_loss(cfg, str(loss_file))
        cfg.train.output_dir = str(folder)
        cfg.train.seed = seed
        cfg.train.max_iter = iterations or cfg.train.max_iter
        if lazy_config.target(cfg.dataloader.evaluator) is build_evaluator:  # as for YAML configs
            cfg.dataloader.evaluator.voc = False
            cfg.dataloader.evaluator.output_dir = None
        with fast_training() if cfg.train.fast_cpu else nullcontext():
            seed_all_rng(seed)
            trainer = lazy_training.build_trainer(cfg)
            DetectionCheckpointer(trainer.model).load(cfg.train.init_checkpoint)

            def evaluate() -> Results:
                batch = lazy_config.OmegaConf.select(cfg, "dataloader.train.total_batch_size") or 1
                return lazy_training.evaluate(cfg, trainer.model, batch if cfg.train.fast_cpu else None)

            trainer.register_hooks([watch(evaluate)])
            trainer.train(0, cfg.train.max_iter)
            return evaluate()


def _no_loss(config_file: str | os.PathLike[str], detector: str) -> UserError:
    return UserError(f"config {config_file} trains {detector}, which has no Parameterized AP Loss to search")


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"SOLVER.MAX_ITER": "100", …}`` of a config."""
    flat: dict[str, str] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)})
    return flat


def _without(settings: Mapping[str, str], own: Sequence[str]) -> dict[str, str]:
    """Settings without those that may differ on resume, for a proxy sets them itself or they do not change what it
    computes, and without the addresses that Python puts into the names of some objects."""
    return {key: re.sub(r" at 0x[0-9a-f]+", "", value) for key, value in settings.items() if key not in own}
