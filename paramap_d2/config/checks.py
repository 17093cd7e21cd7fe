"""What can be known to be wrong with a config before a model is built."""

from __future__ import annotations

import json
from collections.abc import Sequence

from detectron2.config import CfgNode

from paramap_d2.errors import UserError
from paramap_d2.losses import head_losses, load_loss
from paramap_d2.losses.quality import QUALITIES


class ConfigError(UserError):
    """A config file or key that cannot be used."""


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


def num_classes(cfg: CfgNode) -> int | None:
    """The number of classes that the config's detector tells apart; None where it tells none apart, as a
    ProposalNetwork, or is not known here."""
    if "RetinaNet" in cfg.MODEL.META_ARCHITECTURE:
        return cfg.MODEL.RETINANET.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR":
        return cfg.MODEL.DEFORMABLE_DETR.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN"):
        return cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return None


def check_data(names: Sequence[str], classes: int | None) -> None:
    """Whether data sets are there and have as many classes as the detector (None: a detector that cannot say).

    Raises:
        UserError: names the data set; of classes, both numbers.
    """
    from detectron2.data import MetadataCatalog

    from paramap_d2.data import check_datasets

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
    calibrate_on = cfg.MODEL.PARAM_AP.CALIBRATE_ON
    for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, [calibrate_on] if calibrate_on else []):
        check_data(names, num_classes(cfg))
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "ADAMW"):
        raise ConfigError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not {cfg.SOLVER.OPTIMIZER}")
    for pair in cfg.SOLVER.LR_FACTORS:
        match pair:
            case (str(), int() | float() as factor) if factor >= 0:
                continue
        raise ConfigError(f"SOLVER.LR_FACTORS must hold pairs [part of a parameter's name, factor], not {pair}")
    if cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR":
        from paramap_d2.modeling.deformable_detr import check_options
        from paramap_d2.modeling.detr_criterion import check_criterion
        from paramap_d2.modeling.transformers_adapter import check_detr_library

        check_detr_library()
        detr = cfg.MODEL.DEFORMABLE_DETR
        try:
            check_criterion(detr.CRITERION)
            check_options(
                detr.HIDDEN_DIM, detr.NUM_HEADS, len(detr.IN_FEATURES), detr.NUM_FEATURE_LEVELS, detr.DEC_LAYERS
            )
        except ValueError as error:
            raise ConfigError(f"MODEL.DEFORMABLE_DETR: {error}") from None
    if "timm" in cfg.MODEL.BACKBONE.NAME and not cfg.MODEL.WEIGHTS:
        from paramap_d2.modeling.timm_backbone import check_pixels

        timm, model = cfg.MODEL.TIMM, cfg.MODEL
        check_pixels(timm.NAME, timm.WEIGHTS, cfg.INPUT.FORMAT, model.PIXEL_MEAN, model.PIXEL_STD)
    heads = detector_heads(cfg)
    if heads:
        check_loss(heads, cfg.MODEL.PARAM_AP.LOSS, cfg.MODEL.PARAM_AP.QUALITY)


def check_loss(heads: Sequence[str], loss: str, quality: str) -> None:
    """
    Raises:
        UserError: a loss that cannot be read or lacks one of the heads, a kind of box quality that there is not.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"quality (MODEL.PARAM_AP.QUALITY) must be one of {', '.join(QUALITIES)}, not {quality!r}")
    head_losses(load_loss(loss), tuple(heads), loss)
