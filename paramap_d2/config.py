"""The project's config keys, and configs read with errors that a user can act on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from .errors import UserError
from .losses import head_losses, load_loss


class ConfigError(UserError):
    """A config file or key that cannot be used."""


def add_paramap_config(cfg: CfgNode) -> None:
    """Add the project's keys to a Detectron2 config."""
    cfg.MODEL.PARAM_AP = CfgNode()
    # The loss: the name of a preset (paramap_d2.losses.list_presets()) or the path of a loss file, such as the
    # best.json of a search.
    cfg.MODEL.PARAM_AP.LOSS = "retinanet-coco"
    # Quality of a positive's box: "giou" ((GIoU + 1) / 2, the paper's), "iou" or "l1".
    cfg.MODEL.PARAM_AP.QUALITY = "giou"
    # Hold the denominator of the precision constant in the backward pass (the paper's Table 1: RetinaNet reaches
    # 40.5 AP with it and 0.8 without).
    cfg.MODEL.PARAM_AP.BLOCK_GRADIENT = True
    # Count only the k samples of highest score in the batch; 0 counts all.
    cfg.MODEL.PARAM_AP.TOP_K = 0
    # Factor on the gradient of the box branch, in place of the loss file's; 0.0 takes the loss file's.
    cfg.MODEL.PARAM_AP.GRAD_SCALE = 0.0

    cfg.MODEL.DEFORMABLE_DETR = CfgNode()
    # "param_ap": the Parameterized AP Loss (head "detr"); "focal": the baseline, focal + L1 + GIoU.
    cfg.MODEL.DEFORMABLE_DETR.CRITERION = "param_ap"
    cfg.MODEL.DEFORMABLE_DETR.NUM_CLASSES = 80
    # The backbone's features, from the finest to the coarsest.
    cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES = ["res3", "res4", "res5"]
    # Feature maps that attention samples from; those beyond IN_FEATURES are made by convolutions of stride 2.
    cfg.MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS = 4
    # The most objects that an image can have.
    cfg.MODEL.DEFORMABLE_DETR.NUM_QUERIES = 300
    # Channels of the transformer: a multiple of 32 and of NUM_HEADS.
    cfg.MODEL.DEFORMABLE_DETR.HIDDEN_DIM = 256
    cfg.MODEL.DEFORMABLE_DETR.NUM_HEADS = 8
    cfg.MODEL.DEFORMABLE_DETR.DIM_FEEDFORWARD = 1024
    cfg.MODEL.DEFORMABLE_DETR.ENC_LAYERS = 6
    # At least 2.
    cfg.MODEL.DEFORMABLE_DETR.DEC_LAYERS = 6
    cfg.MODEL.DEFORMABLE_DETR.DROPOUT = 0.1
    # Each decoder layer starts from the box of the one before it.
    cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE = True
    # Weights of the class, L1 and GIoU costs in the matching, and of the baseline's three losses.
    cfg.MODEL.DEFORMABLE_DETR.CLASS_WEIGHT = 2.0
    cfg.MODEL.DEFORMABLE_DETR.L1_WEIGHT = 5.0
    cfg.MODEL.DEFORMABLE_DETR.GIOU_WEIGHT = 2.0
    # Detections of lower score are dropped. Scores of the Parameterized AP Loss are not calibrated: keep it at 0.
    cfg.MODEL.DEFORMABLE_DETR.SCORE_THRESH_TEST = 0.0

    # "SGD" as Detectron2 builds it, or "ADAMW", which takes the same keys but MOMENTUM and NESTEROV.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factors on the learning rate of some parameters: [part of their name, factor] pairs; the first that fits counts.
    # As in Deformable DETR: [["backbone", 0.1], ["sampling_offsets", 0.1], ["reference_points", 0.1]].
    cfg.SOLVER.LR_FACTORS = []

    # SSD's augmentation, as in the paper's full training: colours, expansion ×1-4, crops bound by IoU, flips.
    cfg.INPUT.SSD_AUGMENTATION = False

    # Side in pixels of the square that SSD's augmentation resizes to; 0 resizes as INPUT.MIN_SIZE_TRAIN says.
    cfg.INPUT.SSD_SIZE = 0

    # What a search changes in this config for its short trainings: a list of keys and values, as on a command line.
    cfg.PROXY = CfgNode()
    cfg.PROXY.OPTS = []


def read_config(config_file: str | os.PathLike[str], opts: Sequence[object] = ()) -> CfgNode:
    """A Detectron2 config with the project's keys, from a YAML file and KEY VALUE pairs.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value of a wrong type, a key without a value.
    """
    path = os.fspath(config_file)
    if not os.path.isfile(path):
        raise ConfigError(f"config file {path} does not exist")
    cfg = get_cfg()
    add_paramap_config(cfg)
    if not torch.cuda.is_available():  # Detectron2's own default is "cuda", whatever the machine has
        cfg.MODEL.DEVICE = "cpu"
    try:
        cfg.merge_from_file(path)
    except Exception as error:  # yacs, yaml and fvcore raise all sorts
        raise ConfigError(f"config file {path}: {_line(error)}") from None
    merge_options(cfg, opts)
    return cfg


def merge_options(cfg: CfgNode, opts: Sequence[object]) -> None:
    """Merge KEY VALUE pairs into the config.

    Raises:
        ConfigError: names the key.
    """
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"config options come in pairs KEY VALUE; {opts[-1]!r} at the end has no partner")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except Exception as error:
            raise ConfigError(f"config option {key} {value}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def parse_config(text: str) -> CfgNode:
    """A config with the project's keys from its own dump."""
    cfg = get_cfg()
    add_paramap_config(cfg)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    return cfg


def detector_heads(cfg: CfgNode) -> tuple[str, ...]:
    """The heads of a loss file that the config's detector trains with; none for a detector with other losses."""
    heads: tuple[str, ...] = ()
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPRetinaNet":
        heads += ("dense",)
    if cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "ProposalNetwork"):
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "ParamAPRPN":
            heads += ("rpn",)
        if cfg.MODEL.ROI_HEADS.NAME in ("ParamAPROIHeads", "ParamAPCascadeROIHeads"):
            heads += ("roi",)
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR" and cfg.MODEL.DEFORMABLE_DETR.CRITERION == "param_ap":
        heads += ("detr",)
    return heads


def num_classes(cfg: CfgNode) -> int:
    """The number of classes that the config's detector tells apart."""
    if "RetinaNet" in cfg.MODEL.META_ARCHITECTURE:
        return cfg.MODEL.RETINANET.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR":
        return cfg.MODEL.DEFORMABLE_DETR.NUM_CLASSES
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES


def check_data(names: Sequence[str], classes: int | None) -> None:
    """Whether data sets are there and have as many classes as the detector (None: a detector that cannot say).

    Raises:
        UserError: names the data set; of classes, both numbers.
    """
    from detectron2.data import MetadataCatalog

    from .data import check_datasets

    check_datasets(names)
    for name in names:
        metadata = MetadataCatalog.get(name)
        has = len(metadata.get("thing_classes", ()))
        if not has and metadata.get("json_file"):  # a user's own COCO file, which nothing has loaded yet
            with open(metadata.json_file, encoding="utf-8") as file:
                has = len(json.load(file).get("categories", ()))
        if has and classes is not None and has != classes:
            raise ConfigError(f"data set {name} has {has} classes, and the config's detector {classes}")


def check_config(cfg: CfgNode) -> None:
    """Everything that can be known to be wrong before a model is built.

    Raises:
        UserError: a data set that is not there, a class count that does not fit it, a loss that cannot be read.
    """
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN names no data set")
    for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        check_data(names, num_classes(cfg))
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "ADAMW"):
        raise ConfigError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not {cfg.SOLVER.OPTIMIZER}")
    for pair in cfg.SOLVER.LR_FACTORS:
        match pair:
            case (str(), int() | float() as factor) if factor >= 0:
                continue
        raise ConfigError(f"SOLVER.LR_FACTORS must hold pairs [part of a parameter's name, factor], not {pair}")
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR":
        from .modeling.deformable_detr import check_detr_library, check_options

        check_detr_library()
        detr = cfg.MODEL.DEFORMABLE_DETR
        try:
            check_options(
                detr.CRITERION,
                detr.HIDDEN_DIM,
                detr.NUM_HEADS,
                len(detr.IN_FEATURES),
                detr.NUM_FEATURE_LEVELS,
                detr.DEC_LAYERS,
            )
        except ValueError as error:
            raise ConfigError(f"MODEL.DEFORMABLE_DETR: {error}") from None
    heads = detector_heads(cfg)
    if heads:
        head_losses(load_loss(cfg.MODEL.PARAM_AP.LOSS), heads, cfg.MODEL.PARAM_AP.LOSS)
