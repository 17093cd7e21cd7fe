"""What can be known to be wrong with Detectron2's own keys, whose mistakes it answers with a traceback."""

from __future__ import annotations

import difflib
import math
import os
import zipfile
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode

from paramap_d2.errors import UserError

SCHEDULES = "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"


class ConfigError(UserError):
    """A config file or key that cannot be used."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint that begins with a semicolon, empty where nothing is near."""
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_number(key: str, value: float | None, least: float) -> None:
    """
    Raises:
        ConfigError: a value that is below ``least``, infinite or no number; None, one that is not known, passes.
    """
    if value is not None and not least <= value < math.inf:
        raise ConfigError(f"{key} must be at least {least:g}, not {value}")


def check_device(key: str, device: str) -> None:
    """
    Raises:
        ConfigError: no device of torch's, or a GPU that is not there.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"{key} must be cpu, cuda or cuda:N, not {device!r}") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        sees = f"{torch.cuda.device_count()} GPUs" if torch.cuda.is_available() else "no GPU"
        raise ConfigError(f"{key} is {device}, and torch sees {sees}: leave it out, or set it to cpu")


def check_gpus(count: int) -> None:
    """
    Args:
        count: of this machine's processes, each with a GPU of its own; 0 or 1 where one process may train on the CPU.

    Raises:
        ConfigError: there are not so many.
    """
    if count > max(1, torch.cuda.device_count()):
        raise ConfigError(f"--num-gpus {count}: torch sees {torch.cuda.device_count()} GPUs")


def check_amp(key: str, enabled: bool) -> None:
    """
    Raises:
        ConfigError: Detectron2 trains with mixed precision on GPUs alone, and there is none.
    """
    if enabled and not torch.cuda.is_available():
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


def check_weights(key: str, path: str, needed: bool = False) -> None:
    """Whether weights to start from are there, where a path can say.

    Args:
        key: of the config, for the message.
        needed: no path is a mistake, too.

    Raises:
        ConfigError: names the key and the file.
    """
    if not path and needed:
        raise ConfigError(f"{key} names no weights, and --eval-only evaluates some")
    if not path or "://" in path:
        return
    path = path.partition("?")[0]
    if not os.path.isfile(path):
        raise ConfigError(f"{key} is {path}, which does not exist")
    with open(path, "rb") as file:
        pickled = file.read(1) == b"\x80"
    if not pickled and not zipfile.is_zipfile(path):
        raise ConfigError(f"{key} is {path}, which is no checkpoint, or not a whole one")


def check_stock_keys(cfg: CfgNode, own_trainer: bool = False) -> None:
    """Keys whose parts do not go with every detector or image, names that nobody registered, a GPU that is not there.

    Args:
        own_trainer: of the user's, which may know more learning rate schedules.
    """
    check_device("MODEL.DEVICE", cfg.MODEL.DEVICE)
    _check_names(cfg)
    check_number("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0)
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise ConfigError(f"TEST.AUG.ENABLED is for R-CNNs alone, not {cfg.MODEL.META_ARCHITECTURE}: set it to False")
    workers, images = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if workers and images % workers:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {images} is no multiple of SOLVER.REFERENCE_WORLD_SIZE {workers}")
    if cfg.INPUT.get("SSD_AUGMENTATION", False):
        from paramap_d2.data.augmentation import check_format

        check_format(cfg.INPUT.FORMAT)
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULES and not own_trainer:
        raise ConfigError(f"SOLVER.LR_SCHEDULER_NAME must be one of {', '.join(SCHEDULES)}, not {name!r}")


def check_solver(cfg: CfgNode) -> None:
    """Numbers that no training can have."""
    check_number("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, 1)
    check_number("SOLVER.BASE_LR", cfg.SOLVER.BASE_LR, 0)
    check_number("SOLVER.WARMUP_ITERS", cfg.SOLVER.WARMUP_ITERS, 0)
    check_number("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, 1)


def _check_names(cfg: CfgNode) -> None:
    """Whether somebody registered what the config's detector is made of."""
    from detectron2.modeling import (
        ANCHOR_GENERATOR_REGISTRY,
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        ROI_BOX_HEAD_REGISTRY,
        ROI_HEADS_REGISTRY,
        ROI_KEYPOINT_HEAD_REGISTRY,
        ROI_MASK_HEAD_REGISTRY,
        RPN_HEAD_REGISTRY,
    )
    from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY

    import paramap_d2.modeling  # noqa: F401  registers the project's

    model = cfg.MODEL
    rois = model.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
    proposals = rois or model.META_ARCHITECTURE == "ProposalNetwork"
    precomputed = model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    for used, key, name, registry in (
        (True, "META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        (True, "BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
        (True, "ANCHOR_GENERATOR.NAME", model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        (proposals, "RPN.HEAD_NAME", model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY),
        (
            proposals and not precomputed,
            "PROPOSAL_GENERATOR.NAME",
            model.PROPOSAL_GENERATOR.NAME,
            PROPOSAL_GENERATOR_REGISTRY,
        ),
        (rois, "ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        (rois and model.ROI_BOX_HEAD.NAME, "ROI_BOX_HEAD.NAME", model.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY),
        (rois and model.MASK_ON, "ROI_MASK_HEAD.NAME", model.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY),
        (
            rois and model.KEYPOINT_ON,
            "ROI_KEYPOINT_HEAD.NAME",
            model.ROI_KEYPOINT_HEAD.NAME,
            ROI_KEYPOINT_HEAD_REGISTRY,
        ),
    ):
        if used and name not in registry:
            hint = did_you_mean(name, (known for known, _ in registry)) or "; import the module of your own that does"
            raise ConfigError(f"MODEL.{key} is {name}, which nobody registered{hint}")
