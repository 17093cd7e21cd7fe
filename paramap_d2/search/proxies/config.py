"""Configs that a search can train as proxies: YAML configs and LazyConfigs, alike to the rest of the search.

Both hold plain values, to be sent to worker processes, and import Detectron2 only when they are read or trained.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from paramap_d2.errors import UserError

from .user_code import UserCode

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import DefaultTrainer, HookBase
    from omegaconf import DictConfig


logger = logging.getLogger(__name__)

Results = Mapping[str, Mapping[str, float]]
"""An evaluator's figures by task, such as ``{"bbox": {"AP": 31.2, …}}``."""

Watch = Callable[[Callable[[], Results]], "HookBase"]


class ProxyConfig(Protocol):
    """A config with its proxy options merged."""

    heads: tuple[str, ...]  # of the loss file that the detector trains with
    loss: str  # the preset or loss file that the config names
    loss_keys: list[str]  # the config's keys that name it
    settings: Mapping[str, str]  # everything that makes two searches the same, by key
    defaults: Mapping[str, str]  # of settings, where they are known: what a key has that the config does not name
    datasets: tuple[str, ...]  # trained and evaluated on, as far as the config names them
    tested: tuple[str, ...]  # of these the ones that it is evaluated on; the first one's figures count
    own_evaluator: bool  # whether the figures are those of an evaluator that is not the project's

    def untrained(self, folder: Path) -> Results:
        """The figures of the untrained model on two images: what an evaluator gives, if not how much."""
        ...

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        """Train from the seed with a loss file, without checkpoints or events; the figures on the test data, in every
        rank of a distributed training.

        Args:
            watch: makes a hook of the training, which it gives a function that evaluates the model as it is; the hook's
                ``start`` says where the training begins.
            iterations: instead of the config's own.
        """
        ...


def read_proxy_config(
    config_file: str | os.PathLike[str],
    opts: Sequence[str] = (),
    imports: Sequence[str] = (),
    processes: int = 1,
    elsewhere: bool = False,
) -> ProxyConfig:
    """A config file (.py: a LazyConfig) with its proxy options and those given, which have the last word.

    Args:
        imports: modules to import before the config is read, and in every process that trains it.
        processes: that train one proxy together.
        elsewhere: on other machines, whose GPUs are not known here.

    Raises:
        UserError: it cannot be read, its data is not there, its detector has no loss to search, nothing evaluates it,
            its batch cannot be shared among the processes.
    """
    kind = LazyProxyConfig if os.fspath(config_file).endswith(".py") else YamlProxyConfig
    return kind.read(config_file, opts, UserCode.named(imports), processes, elsewhere)


@dataclass(frozen=True)
class YamlProxyConfig:
    """A Detectron2 config; its proxy options are PROXY.OPTS, its trainer is PROXY.TRAINER."""

    text: str
    heads: tuple[str, ...]
    loss: str
    settings: Mapping[str, str]
    defaults: Mapping[str, str]
    datasets: tuple[str, ...]
    tested: tuple[str, ...]
    own_evaluator: bool
    code: UserCode
    loss_keys = ["MODEL.PARAM_AP.LOSS"]

    @classmethod
    def read(
        cls,
        config_file: str | os.PathLike[str],
        opts: Sequence[str],
        code: UserCode,
        processes: int = 1,
        elsewhere: bool = False,
    ) -> YamlProxyConfig:
        from paramap_d2.config import check_config, detector_heads, merge_options, parse_config, read_config

        cfg = read_config(config_file, opts, code.add_keys())
        merge_options(cfg, cfg.PROXY.OPTS, f"config file {config_file}: PROXY.OPTS: option")
        merge_options(cfg, opts)
        cfg.VIS_PERIOD, cfg.MODEL.PARAM_AP.CALIBRATE_ON = 0, ""
        if cfg.PROXY.TRAINER:
            code.trainer(cfg.PROXY.TRAINER)  # its module may register what the config names
        cfg.MODEL.PARAM_AP.END_LOSS = _no_end_loss("MODEL.PARAM_AP.END_LOSS", cfg.MODEL.PARAM_AP.END_LOSS)
        _check_grad_scale("MODEL.PARAM_AP.GRAD_SCALE", cfg.MODEL.PARAM_AP.GRAD_SCALE)
        heads = detector_heads(cfg)
        if not heads:
            raise _no_loss(config_file, cfg.MODEL.META_ARCHITECTURE)
        if not cfg.DATASETS.TEST:
            raise UserError("DATASETS.TEST names no data set, and a fitness needs one")
        check_config(cfg, fitness=True, processes=processes, elsewhere=elsewhere)
        cfg = _of_a_proxy(cfg, processes)
        own = ("OUTPUT_DIR", "SEED", "MODEL.DEVICE", "PROXY.OPTS", "MODEL.PARAM_AP.CALIBRATE_ON", *cls.loss_keys)
        own += ("SOLVER.CHECKPOINT_PERIOD", "MODEL.PARAM_AP.END_LOSS", "MODEL.PARAM_AP.END_LOSS_FROM")
        settings = _without(_flat(cfg), own) | _shared(processes, "SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)
        return cls(
            cfg.dump(),
            heads,
            cfg.MODEL.PARAM_AP.LOSS,
            settings,
            _without(_flat(parse_config("{}", code.add_keys())), own),
            tuple(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])),
            tuple(cfg.DATASETS.TEST),
            bool(cfg.PROXY.TRAINER),
            code,
        )

    def _cfg(self) -> CfgNode:
        from paramap_d2.config import parse_config

        return parse_config(self.text, self.code.add_keys())

    def _trainer(self, cfg: CfgNode) -> type[DefaultTrainer]:
        from detectron2.engine import hooks

        from paramap_d2.data import build_evaluator
        from paramap_d2.engine import Trainer
        from paramap_d2.engine.cpu_speed import SameSizeBatches

        class ProxyTrainer(self.code.trainer(cfg.PROXY.TRAINER) if cfg.PROXY.TRAINER else Trainer):
            def build_hooks(self) -> list[HookBase | None]:
                return [hooks.LRScheduler(), _precise_bn(self)]

            @classmethod
            def build_evaluator(cls, cfg: CfgNode, dataset_name: str, *args: Any, **options: Any) -> Any:
                if cfg.PROXY.TRAINER:
                    return super().build_evaluator(cfg, dataset_name, *args, **options)
                # The fitness is one of COCO's figures; no files.
                return build_evaluator(dataset_name, voc=False, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS)

            @classmethod
            def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
                loader = super().build_test_loader(cfg, dataset_name)
                fast = cfg.MODEL.PARAM_AP.FAST_CPU
                return SameSizeBatches(loader, cfg.SOLVER.IMS_PER_BATCH) if fast else loader

        return ProxyTrainer

    def untrained(self, folder: Path) -> Results:
        cfg = self._cfg()
        cfg.OUTPUT_DIR = str(folder)
        cfg.freeze()

        class Two(self._trainer(cfg)):
            @classmethod
            def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
                return [images[:1] for images in islice(super().build_test_loader(cfg, dataset_name), 2)]

        return Two.test(cfg, Two.build_model(cfg))

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        from detectron2.utils import comm
        from detectron2.utils.env import seed_all_rng

        from paramap_d2.engine.cpu_speed import fast_training

        cfg = self._cfg()
        cfg.MODEL.PARAM_AP.LOSS = str(loss_file)
        cfg.OUTPUT_DIR = str(folder)
        cfg.SEED = seed
        cfg.SOLVER.MAX_ITER = iterations or cfg.SOLVER.MAX_ITER
        cfg.freeze()
        with fast_training() if cfg.MODEL.PARAM_AP.FAST_CPU else nullcontext():
            seed_all_rng(seed + comm.get_rank())
            trainer = self._trainer(cfg)(cfg)
            trainer.resume_or_load(resume=False)

            def evaluate() -> Results:
                return comm.all_gather(trainer.test(cfg, trainer.model))[0]

            hook = watch(evaluate)
            trainer.register_hooks([hook])
            trainer.start_iter = hook.start(trainer, cfg.DATALOADER.NUM_WORKERS == 0)
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
    datasets: tuple[str, ...]
    tested: tuple[str, ...]
    own_evaluator: bool
    code: UserCode
    config_file: str  # executed where it is trained, too, for what it registers
    defaults = MappingProxyType({})

    @classmethod
    def read(
        cls,
        config_file: str | os.PathLike[str],
        opts: Sequence[str],
        code: UserCode,
        processes: int = 1,
        elsewhere: bool = False,
    ) -> LazyProxyConfig:
        import cloudpickle

        from paramap_d2.config import lazy as lazy_config
        from paramap_d2.config.lazy_checks import check_lazy_config
        from paramap_d2.data import build_evaluator

        code.load()
        cfg = lazy_config.read_lazy_config(config_file, opts)
        lazy_config.apply_options(cfg, [*cfg.proxy.opts, *opts])
        cfg.train.calibrate_on, cfg.train.end_loss = "", _no_end_loss("train.end_loss", cfg.train.end_loss)
        heads = lazy_config.detector_heads(cfg)
        if not heads:
            detector = lazy_config.target(cfg.model)
            raise _no_loss(config_file, getattr(detector, "__name__", str(detector)))
        check_lazy_config(cfg, fitness=True, processes=processes, elsewhere=elsewhere)
        for part in ("test", "evaluator"):
            if part not in cfg.dataloader:
                raise UserError(f"config {config_file} defines no dataloader.{part}, and a fitness needs one")
        keys = lazy_config.loss_keys(cfg)
        for key in (key.removesuffix("loss") + "grad_scale" for key in keys):
            _check_grad_scale(key, lazy_config.OmegaConf.select(cfg, key))
        own = ("train.output_dir", "train.seed", "train.device", "train.calibrate_on", *keys)
        own += ("train.checkpointer.period", "train.checkpointer.max_to_keep", "train.end_loss", "train.end_loss_from")
        batch = "dataloader.train.total_batch_size"
        settings = {k: v for k, v in lazy_config.settings(cfg).items() if not k.startswith("proxy.opts")}
        return cls(
            cloudpickle.dumps(cfg),
            heads,
            lazy_config.OmegaConf.select(cfg, keys[0]),
            keys,
            _without(settings, own) | _shared(processes, batch, lazy_config.OmegaConf.select(cfg, batch)),
            tuple(lazy_config.dataset_names(cfg)),
            tuple(lazy_config.dataset_names(cfg, ["test"])),
            lazy_config.target(cfg.dataloader.evaluator) is not build_evaluator,
            code,
            os.path.abspath(config_file),
        )

    def _cfg(self, folder: Path) -> DictConfig:
        from paramap_d2.config import lazy as lazy_config

        self.code.load()
        lazy_config.execute(self.config_file)
        cfg = pickle.loads(self.pickled)
        cfg.train.output_dir = str(folder)
        if not self.own_evaluator:  # as for YAML configs
            cfg.dataloader.evaluator.voc = False
            cfg.dataloader.evaluator.output_dir = None
        return cfg

    def untrained(self, folder: Path) -> Results:
        from paramap_d2.engine import lazy as lazy_training

        cfg = self._cfg(folder)
        return lazy_training.evaluate(cfg, lazy_training.build_model(cfg), first=2)

    def train(self, loss_file: Path, folder: Path, seed: int, watch: Watch, iterations: int | None = None) -> Results:
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.utils import comm
        from detectron2.utils.env import seed_all_rng

        from paramap_d2.config import lazy as lazy_config
        from paramap_d2.engine import lazy as lazy_training
        from paramap_d2.engine.cpu_speed import fast_training

        cfg = self._cfg(folder)
        lazy_config.set_loss(cfg, str(loss_file))
        cfg.train.seed = seed
        cfg.train.max_iter = iterations or cfg.train.max_iter
        with fast_training() if cfg.train.fast_cpu else nullcontext():
            seed_all_rng(seed + comm.get_rank())
            trainer = lazy_training.build_trainer(cfg)
            with lazy_training.told_of_init_checkpoint(cfg, trainer.model):
                DetectionCheckpointer(trainer.model).load(cfg.train.init_checkpoint)

            def evaluate() -> Results:
                batch = lazy_config.OmegaConf.select(cfg, "dataloader.train.total_batch_size") or 1
                found = lazy_training.evaluate(cfg, trainer.model, batch if cfg.train.fast_cpu else None)
                return comm.all_gather(found)[0]

            hook = watch(evaluate)
            trainer.register_hooks([hook])
            in_process = lazy_config.OmegaConf.select(cfg, "dataloader.train.num_workers") == 0
            trainer.train(hook.start(trainer, in_process), cfg.train.max_iter)
            return evaluate()


def _shared(processes: int, key: str, images: int | None) -> dict[str, str]:
    """The setting of proxies that several processes train; a batch that cannot be shared among them is a UserError."""
    if processes == 1:
        return {}
    if images is not None and images % processes:
        raise UserError(f"{key} {images} must be a multiple of --gpus-per-proxy {processes}")
    return {"--gpus-per-proxy": str(processes)}


def _of_a_proxy(cfg: CfgNode, processes: int) -> CfgNode:
    """The config as so many processes train and evaluate it for a fitness; what that changes is said."""
    from detectron2.engine import DefaultTrainer

    cfg = cfg.clone()
    # A trainer would do the same, and train longer than it was asked to.
    if (workers := cfg.SOLVER.REFERENCE_WORLD_SIZE) not in (0, processes):
        cfg = DefaultTrainer.auto_scale_workers(cfg, processes)
        logger.warning(
            "SOLVER.REFERENCE_WORLD_SIZE %d: a proxy is %s, and trains %d iterations of %d images",
            workers,
            "one process" if processes == 1 else f"{processes} processes",
            cfg.SOLVER.MAX_ITER,
            cfg.SOLVER.IMS_PER_BATCH,
        )
    if len(cfg.DATASETS.TEST) > 1:
        first = cfg.DATASETS.TEST[0]
        logger.warning("DATASETS.TEST names %d data sets: the fitness is of %s alone", len(cfg.DATASETS.TEST), first)
        cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    if cfg.TEST.AUG.ENABLED:
        logger.warning("TEST.AUG.ENABLED: the fitness is without test-time augmentation")
        cfg.TEST.AUG.ENABLED = False
    return cfg


def _no_end_loss(key: str, loss: str) -> str:
    if loss:
        logger.warning("%s: a fitness is that of one loss, and proxies train without it", key)
    return ""


def _check_grad_scale(key: str, scale: float | None) -> None:
    if scale:
        mend = f"leave it at 0.0, with --fix-grad-scale {scale:g} to search with this one"
        raise UserError(f"{key} is {scale:g} and would take the place of every loss's own: {mend}")


def _precise_bn(trainer: DefaultTrainer) -> HookBase | None:
    """As DefaultTrainer's at the end of a training; a figure on the way is by the running statistics."""
    from detectron2.engine import hooks
    from fvcore.nn.precise_bn import get_bn_modules

    cfg = trainer.cfg
    if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(trainer.model):
        return None
    return hooks.PreciseBN(0, trainer.model, trainer.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER)


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
