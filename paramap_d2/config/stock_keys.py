"""What can be known to be wrong with Detectron2's own keys, whose mistakes it answers with a traceback."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paramap_d2.errors import UserError

SCHEDULES = "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"


class ConfigError(UserError):
    """A config file or key that cannot be used."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint that begins with a semicolon, empty where nothing is near."""
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_number(key: str, value: Any, least: float, whole: bool = True) -> None:
    """
    Raises:
        ConfigError: a value that is below ``least``, infinite or no number, or has a fraction where it has to be whole;
            None, one that is not known, passes.
    """
    if value is None:
        return
    if not (isinstance(value, int | float) and least <= value < math.inf):
        raise ConfigError(f"{key} must be at least {least:g}, not {value!r}")
    if whole and value != int(value):
        raise ConfigError(f"{key} must be a whole number, not {value!r}")


def check_device(key: str, device: Any, elsewhere: bool = False) -> None:
    """
    Args:
        elsewhere: it is one of another machine.

    Raises:
        ConfigError: no device of torch's, or a GPU that is not there.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"{key} must be a device such as cpu or cuda, not {device!r}") from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count and not elsewhere:
        mend = (
            f"torch sees {count} GPUs, from cuda:0 on" if count else "torch sees no GPU: leave it out, or set it to cpu"
        )
        raise ConfigError(f"{key} is {device}, and {mend}")


def check_gpus(count: int, eval_only: bool = False) -> None:
    """
    Args:
        count: of this machine's processes, each with a GPU of its own; 0 or 1 where one process may train on the CPU.
        eval_only: which several processes can do on a CPU, too.

    Raises:
        ConfigError: there are not so many.
    """
    there = torch.cuda.device_count()
    if count > max(1, there) and (there or not eval_only):
        raise ConfigError(f"--num-gpus {count}: torch sees {there or 'no'} GPU{'' if there == 1 else 's'}")


def check_amp(key: str, enabled: bool, elsewhere: bool = False) -> None:
    """
    Args:
        elsewhere: it is trained on other machines.

    Raises:
        ConfigError: Detectron2 trains with mixed precision on GPUs alone, and there is none.
    """
    if enabled and not torch.cuda.is_available() and not elsewhere:
        raise ConfigError(f"{key} needs a GPU, and torch sees none: set it to False")


def check_batch(key: str, images: int | None, processes: int = 1) -> None:
    """
    Args:
        images: of a batch; None where it is not known.
        processes: that train it together; 0: one, without a GPU.

    Raises:
        ConfigError: a batch without images, or one that the processes cannot share.
    """
    check_number(key, images, 1)
    if images is not None and processes and images % processes:
        raise ConfigError(f"{key} {images} must be a multiple of the number of GPUs, {processes}")


def check_weights(key: str, path: str, needed: bool = False, content: bool = True) -> None:
    """Whether weights to start from are there, where a path can say.

    Args:
        key: of the config, for the message.
        needed: no path is a mistake, too.
        content: look into the file; not where a trainer of the user's own may know another form.

    Raises:
        ConfigError: names the key and the file.
    """
    if not path and needed:
        raise ConfigError(f"{key} names no weights, and --eval-only evaluates some")
    if not path or "://" in path:
        return
    path = path.partition("?")[0]
    if not os.path.isfile(path):
        raise ConfigError(f"{key} is {path}, which {'is a folder' if os.path.isdir(path) else 'does not exist'}")
    if content and not path.endswith(".pkl"):  # those have had many forms
        with open(path, "rb") as file:
            pickled = file.read(1) == b"\x80"
        if not pickled and not zipfile.is_zipfile(path):
            raise ConfigError(f"{key} is {path}, which is no checkpoint, or not a whole one")


def check_stock_keys(cfg: CfgNode, eval_only: bool = False, own_trainer: bool = False, elsewhere: bool = False) -> None:
    """Keys whose parts do not go with every detector or image, names that nobody registered, a GPU that is not there.

    Args:
        own_trainer: of the user's, which may know more learning rate schedules.
        elsewhere: it is trained on other machines.
    """
    check_device("MODEL.DEVICE", cfg.MODEL.DEVICE, elsewhere)
    _check_names(cfg)
    check_number("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0)
    if cfg.TEST.AUG.ENABLED and not _is_rcnn(cfg.MODEL.META_ARCHITECTURE):
        raise ConfigError(f"TEST.AUG.ENABLED is for R-CNNs alone, not {cfg.MODEL.META_ARCHITECTURE}: set it to False")
    workers, images = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if workers and images % workers:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {images} is no multiple of SOLVER.REFERENCE_WORLD_SIZE {workers}")
    check_number("INPUT.SSD_SIZE", cfg.INPUT.get("SSD_SIZE", 0), 0)
    if cfg.INPUT.get("SSD_AUGMENTATION", False):
        from paramap_d2.data.augmentation import check_format

        check_format(cfg.INPUT.FORMAT)
        if cfg.INPUT.CROP.ENABLED:
            raise ConfigError("INPUT.SSD_AUGMENTATION crops by itself: set INPUT.CROP.ENABLED to False")
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULES and not own_trainer and not eval_only:
        raise ConfigError(f"SOLVER.LR_SCHEDULER_NAME must be one of {', '.join(SCHEDULES)}, not {name!r}")


@contextlib.contextmanager
def references_resolved() -> Iterator[None]:
    """A ``${…}`` of a LazyConfig that refers to nothing is a ConfigError, which names its key."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from None


@references_resolved()
def check_lazy_stock_keys(cfg: DictConfig, eval_only: bool = False, elsewhere: bool = False) -> None:
    """The same of a LazyConfig, as far as it has what can be asked: a value may be a call of the user's own."""
    for key in ("train", "train.amp", "train.ddp", "train.checkpointer"):
        if not isinstance(OmegaConf.select(cfg, key), DictConfig):
            raise ConfigError(f"{key} must have parts, as in Detectron2's common/train.py, and is no value")
    check_device("train.device", cfg.train.device or "cpu", elsewhere)
    least = {"dataloader.train.num_workers": 0, "dataloader.test.num_workers": 0}
    if not eval_only:
        least |= {"train.max_iter": 1, "optimizer.lr": 0, "train.checkpointer.period": 1, "train.log_period": 1}
    for key, number in least.items():
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, DictConfig):
            check_number(key, value, number, whole=key != "optimizer.lr")


def check_solver(cfg: CfgNode) -> None:
    """Numbers that no training can have."""
    check_number("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, 1)
    check_number("SOLVER.BASE_LR", cfg.SOLVER.BASE_LR, 0, whole=False)
    check_number("SOLVER.WARMUP_ITERS", cfg.SOLVER.WARMUP_ITERS, 0)
    check_number("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, 1)


def _is_rcnn(detector: str) -> bool:
    """Whether that is what its name stands for, as far as can be told."""
    from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

    found = META_ARCH_REGISTRY.get(detector)
    return not isinstance(found, type) or issubclass(found, GeneralizedRCNN)


def _check_names(cfg: CfgNode) -> None:
    """Whether somebody registered what the config's detector is made of. What a part of the user's own makes of the
    keys is not known: it may have no use for the names that are left in them, or other ones."""
    from detectron2 import modeling as stock
    from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
    from detectron2.modeling.roi_heads import CascadeROIHeads

    import paramap_d2.modeling  # noqa: F401  registers the project's

    def check(key: str, registry: Registry) -> type | None:
        """What the name is of, None where that is the user's own."""
        name = reduce(getattr, key.split("."), cfg)
        if name not in registry:
            raise ConfigError(
                f"{key} is {name!r}, which nobody registered{did_you_mean(name, (known for known, _ in registry))} "
                "(One of your own: import its module first.)"
            )
        found = registry.get(name)
        known = isinstance(found, type) and found.__module__.split(".")[0] in ("detectron2", "paramap_d2")
        return found if known else None

    detector = check("MODEL.META_ARCHITECTURE", stock.META_ARCH_REGISTRY)
    if detector is None:
        return
    check("MODEL.BACKBONE.NAME", stock.BACKBONE_REGISTRY)
    if issubclass(detector, stock.SemanticSegmentor | stock.PanopticFPN):
        check("MODEL.SEM_SEG_HEAD.NAME", stock.SEM_SEG_HEADS_REGISTRY)
    if issubclass(detector, stock.RetinaNet):
        check("MODEL.ANCHOR_GENERATOR.NAME", stock.ANCHOR_GENERATOR_REGISTRY)
    if not issubclass(detector, stock.GeneralizedRCNN | stock.ProposalNetwork):
        return
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
        generator = check("MODEL.PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY)
        if generator is not None and issubclass(generator, RPN):
            check("MODEL.RPN.HEAD_NAME", stock.RPN_HEAD_REGISTRY)
            check("MODEL.ANCHOR_GENERATOR.NAME", stock.ANCHOR_GENERATOR_REGISTRY)
    if not issubclass(detector, stock.GeneralizedRCNN):
        return
    heads = check("MODEL.ROI_HEADS.NAME", stock.ROI_HEADS_REGISTRY)
    if heads is None or not issubclass(heads, stock.StandardROIHeads):
        return
    check("MODEL.ROI_BOX_HEAD.NAME", stock.ROI_BOX_HEAD_REGISTRY)
    if issubclass(heads, CascadeROIHeads) and not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ConfigError(f"{heads.__name__} needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True")
    if cfg.MODEL.MASK_ON:
        check("MODEL.ROI_MASK_HEAD.NAME", stock.ROI_MASK_HEAD_REGISTRY)
    if cfg.MODEL.KEYPOINT_ON:
        check("MODEL.ROI_KEYPOINT_HEAD.NAME", stock.ROI_KEYPOINT_HEAD_REGISTRY)
