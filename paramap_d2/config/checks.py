"""What can be known to be wrong with a config before a model is built."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from paramap_d2.errors import UserError
from paramap_d2.files import make_output_folder
from paramap_d2.losses import Sibling, head_losses, load_any_loss
from paramap_d2.losses.quality import QUALITIES

from .keys import DEFAULT_LOSS
from .stock_keys import ConfigError, check_amp, check_batch, check_solver, check_stock_keys, check_weights

logger = logging.getLogger(__name__)

COCO_KEYPOINTS = 17
"""Of its persons; their OKS widths are pycocotools' own."""


def is_a(registry: Registry, name: str, *kinds: type) -> bool:
    """Whether what is registered under a name is one of these classes; a user's own counts as what it is made of."""
    found = registry.get(name) if name in registry else None
    return isinstance(found, type) and issubclass(found, kinds)


def detector_heads(cfg: CfgNode) -> tuple[str, ...]:
    """The heads of a loss file that the config's detector trains with; none for a detector with other losses."""
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, ProposalNetwork
    from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY

    from paramap_d2 import modeling

    heads: tuple[str, ...] = ()
    detector = cfg.MODEL.META_ARCHITECTURE
    if is_a(META_ARCH_REGISTRY, detector, modeling.ParamAPRetinaNet):
        heads += ("dense",)
    if is_a(META_ARCH_REGISTRY, detector, GeneralizedRCNN, ProposalNetwork):
        if is_a(PROPOSAL_GENERATOR_REGISTRY, cfg.MODEL.PROPOSAL_GENERATOR.NAME, modeling.ParamAPRPN):
            heads += ("rpn",)
        rois = modeling.ParamAPROIHeads, modeling.ParamAPCascadeROIHeads
        if is_a(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME, *rois):
            heads += ("roi",)
    if is_a(META_ARCH_REGISTRY, detector, modeling.ParamAPDeformableDETR):
        if cfg.MODEL.DEFORMABLE_DETR.CRITERION == "param_ap":
            heads += ("detr",)
    return heads


def num_classes(cfg: CfgNode) -> tuple[str, int] | None:
    """The key that says how many classes the config's detector tells apart, and their number; None where it tells none
    apart, as a ProposalNetwork, or is not known here."""
    from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet

    from paramap_d2.modeling import ParamAPDeformableDETR

    for kind, key, part in (
        (RetinaNet, "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET),
        (ParamAPDeformableDETR, "MODEL.DEFORMABLE_DETR.NUM_CLASSES", cfg.MODEL.DEFORMABLE_DETR),
        (GeneralizedRCNN, "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS),
    ):
        if is_a(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, kind):
            return key, part.NUM_CLASSES
    return None


def check_data(
    train: Sequence[str],
    test: Sequence[str],
    classes: tuple[str, int] | None,
    images: bool = True,
    own_evaluator: bool = False,
    fitness: Sequence[str] = (),
    masks: tuple[str, str] | None = None,
    keypoints: tuple[str, int] | None = None,
    calibrated: tuple[str, str] | None = None,
) -> None:
    """Whether data sets can be trained and evaluated on, agree in their classes, and the detector with them.

    Args:
        test: evaluated on.
        classes: the detector's number, after its key; None: a detector that cannot say.
        images: look at image files, too.
        own_evaluator: whether something else than the project's evaluators does.
        fitness: of ``test`` those whose AP is a search's fitness.
        masks: the form in which masks are trained, too, after its key; None where they are not.
        keypoints: how many of an object are trained, after their key; None where they are not.
        calibrated: a data set that scores are calibrated on, after the key that names it.

    Raises:
        UserError: names the data set and what is wrong, and the key of one that is named apart.
    """
    from detectron2.data import MetadataCatalog

    from paramap_d2.data import check_content
    from paramap_d2.data.evaluation import EVALUATED

    checked, named_by = check_content([*train, *test], images), {}
    if calibrated and calibrated[1] not in (*train, *test):
        key, name = calibrated
        named_by[name] = f"{key}: "
        try:
            checked += check_content([name], images)
        except UserError as error:
            raise ConfigError(f"{key}: {error}") from None
    for one in checked:
        if one.name in train and not one.objects:
            raise ConfigError(f"data set {one.name} has no object to learn from")
        if masks and one.name in train and one.masks < one.objects:
            raise ConfigError(
                f"data set {one.name} has no mask (segmentation) for {one.objects - one.masks} of its {one.objects} "
                "objects, and the config trains masks: add them, take the objects out, or train without masks"
            )
        if masks and not own_evaluator and one.name in train and one.encoded_masks and masks[1] != "bitmask":
            raise ConfigError(
                f"data set {one.name} has {one.encoded_masks} masks as run-length codes or arrays, not polygons: set "
                f"{masks[0]} to bitmask"
            )
        if keypoints and one.objects:
            key, number = keypoints
            other = one.keypoints - ({number} if one.name in train else {0, number})
            if other:
                raise ConfigError(
                    f"data set {one.name} has objects with {min(other)} keypoints, and the config trains {number} of "
                    f"each ({key}): those that cannot be seen are given as three zeros"
                )
        has, where = len(one.classes or ()), named_by.get(one.name, "")
        if has and classes is not None and has != classes[1]:
            key, number = classes
            raise ConfigError(
                f"{where}data set {one.name} has {has} classes, and the config's detector {number} ({key})"
            )
        if not has and classes is not None and one.highest_class >= classes[1]:
            key, number = classes
            raise ConfigError(
                f"{where}data set {one.name} has an object of class {one.highest_class}, and the config's detector "
                f"{number} classes, from 0 on ({key})"
            )
        kind = MetadataCatalog.get(one.name).get("evaluator_type", "coco")
        if one.name in (*test, *named_by) and kind not in EVALUATED and not own_evaluator:
            raise ConfigError(
                f"{where}data set {one.name} has the evaluator type {kind}, not one of {', '.join(EVALUATED)}"
            )
    if fitness and not own_evaluator and not any(one.objects for one in checked if one.name in fitness):
        raise ConfigError(f"data set {' and '.join(fitness)} has no object to find, and a fitness is the AP on it")
    known = [one for one in checked if one.classes]
    for one in known[1:]:
        first = known[0]
        for k, (a, b) in enumerate(zip_longest(first.classes, one.classes)):
            if a != b:
                raise ConfigError(
                    f"{named_by.get(one.name, '')}data sets {first.name} and {one.name} do not have the same classes "
                    f"in the same order: class {k} is {_named(a)} in {first.name} and {_named(b)} in {one.name}"
                )


def warn_if_trained_on(name: str, train: Sequence[str]) -> None:
    """Say that scores are to be calibrated on what the detector learnt by heart."""
    if name in train:
        logger.warning(
            "data set %s is one that the detector trains on: scores calibrated there are too high anywhere else", name
        )


def _named(label: str | None) -> str:
    return "not there" if label is None else repr(label)


def has_checkpoint(folder: str) -> bool:
    """Whether a resumed training goes on there, whatever weights it once began with."""
    return os.path.isfile(os.path.join(folder, "last_checkpoint"))


def check_config(
    cfg: CfgNode,
    eval_only: bool = False,
    resume: bool = False,
    fitness: bool = False,
    processes: int = 1,
    own_trainer: bool = False,
    elsewhere: bool = False,
) -> None:
    """Everything that can be known to be wrong before a model is built, data included. Once, before processes start.

    Args:
        eval_only: only evaluate: no training data are needed, but weights.
        resume: go on from the last checkpoint, if there is one.
        fitness: the AP on the first test data is a search's fitness.
        processes: that train it together.
        own_trainer: by a trainer of the user's own, which may have other evaluators, schedules of the learning rate and
            forms of weights; as where PROXY.TRAINER names one.
        elsewhere: on other machines, whose GPUs are not known here.

    Raises:
        UserError: an output folder that cannot be written to, data that cannot be trained on, weights that are not
            there, a class count that does not fit the data, a loss that cannot be read.
    """
    if not cfg.DATASETS.TRAIN and not eval_only:
        raise ConfigError("DATASETS.TRAIN names no data set")
    own = own_trainer or bool(cfg.PROXY.TRAINER)
    check_stock_keys(cfg, eval_only, own, elsewhere)
    if not fitness:
        make_output_folder(cfg.OUTPUT_DIR)
    goes_on = resume and has_checkpoint(cfg.OUTPUT_DIR)
    if not goes_on:
        check_weights("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, needed=eval_only, content=not own)
    if not eval_only:
        check_amp("SOLVER.AMP.ENABLED", cfg.SOLVER.AMP.ENABLED, elsewhere)
        check_solver(cfg)
        scaled = fitness or cfg.SOLVER.REFERENCE_WORLD_SIZE  # to the number of processes, by the search or Detectron2
        check_batch("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, 1 if scaled else processes)
    train = [] if eval_only else cfg.DATASETS.TRAIN
    on = cfg.DATASETS.TEST[:1] if fitness else ()
    more: dict[str, Any] = {"own_evaluator": own, "fitness": on}
    if cfg.MODEL.MASK_ON:
        more["masks"] = "INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT
    if cfg.MODEL.KEYPOINT_ON and not own:
        more["keypoints"] = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if cfg.MODEL.PARAM_AP.CALIBRATE_ON and not eval_only:
        more["calibrated"] = "MODEL.PARAM_AP.CALIBRATE_ON", cfg.MODEL.PARAM_AP.CALIBRATE_ON
        warn_if_trained_on(cfg.MODEL.PARAM_AP.CALIBRATE_ON, train)
    classes = num_classes(cfg)
    check_data(train, cfg.DATASETS.TEST, classes, cfg.INPUT.CHECK_IMAGES, **more)
    if cfg.MODEL.KEYPOINT_ON and not own:
        _check_keypoints(cfg, train)
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "ADAMW"):
        raise ConfigError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not {cfg.SOLVER.OPTIMIZER}")
    for pair in cfg.SOLVER.LR_FACTORS:
        match pair:
            case (str(), int() | float() as factor) if factor >= 0:
                continue
        raise ConfigError(f"SOLVER.LR_FACTORS must hold pairs [part of a parameter's name, factor], not {pair}")
    if classes and classes[0].startswith("MODEL.DEFORMABLE_DETR"):
        from paramap_d2.modeling.deformable_detr import check_options
        from paramap_d2.modeling.detr_criterion import check_criterion
        from paramap_d2.modeling.transformers_adapter import check_detr_library

        check_detr_library()
        detr = cfg.MODEL.DEFORMABLE_DETR
        try:
            check_criterion(detr.CRITERION)
            others = detr.NUM_FEATURE_LEVELS, detr.DEC_LAYERS, detr.NUM_QUERIES, detr.DROPOUT
            check_options(detr.HIDDEN_DIM, detr.NUM_HEADS, len(detr.IN_FEATURES), *others)
        except ValueError as error:
            raise ConfigError(f"MODEL.DEFORMABLE_DETR: {error}") from None
    if "timm" in cfg.MODEL.BACKBONE.NAME and not (cfg.MODEL.WEIGHTS or goes_on):
        from paramap_d2.modeling.timm_backbone import check_pixels

        timm, model = cfg.MODEL.TIMM, cfg.MODEL
        check_pixels(timm.NAME, timm.WEIGHTS, cfg.INPUT.FORMAT, model.PIXEL_MEAN, model.PIXEL_STD)
    heads, options = detector_heads(cfg), cfg.MODEL.PARAM_AP
    given = options.QUALITY, options.BLOCK_GRADIENT, options.TOP_K, options.GRAD_SCALE
    if not eval_only:
        keys = "MODEL.PARAM_AP.END_LOSS", "MODEL.PARAM_AP.END_LOSS_FROM"
        check_end_loss(keys, options.END_LOSS, options.END_LOSS_FROM, heads, *given)
    if not heads and not eval_only and options.LOSS != DEFAULT_LOSS:  # as a baseline, or the detector was forgotten
        detector = cfg.MODEL.META_ARCHITECTURE
        logger.warning(
            "MODEL.PARAM_AP.LOSS %s is not used: this %s trains with losses of its own", options.LOSS, detector
        )
    if heads and eval_only:
        check_quality(options.QUALITY)
    if heads and not eval_only:  # a detector is built for inference without its loss
        _warn_of_box_weights(cfg, heads)
        check_loss(heads, options.LOSS, *given)
        if options.GLOBAL_BATCH:
            check_top_k("MODEL.PARAM_AP.TOP_K", options.TOP_K, "MODEL.PARAM_AP.GLOBAL_BATCH False", processes)


def _check_keypoints(cfg: CfgNode, train: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: keypoints without names, by which they are mirrored, or another number of OKS widths than of them.
    """
    from detectron2.data import MetadataCatalog

    for name in train:
        if not MetadataCatalog.get(name).get("keypoint_names"):
            raise ConfigError(
                f"data set {name} has no keypoint_names, and the config trains keypoints: give its metadata "
                "keypoint_names, keypoint_flip_map and keypoint_connection_rules where it is registered"
            )
    key, count = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    widths = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if widths != count and cfg.DATASETS.TEST:
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS must hold a number for each of the {count} keypoints ({key}), not "
            f"{len(cfg.TEST.KEYPOINT_OKS_SIGMAS)} (none stands for COCO's {COCO_KEYPOINTS})"
        )


def check_top_k(key: str, top_k: int | None, instead: str, processes: int) -> None:
    """
    Args:
        top_k: of a loss that ranks the batches of all processes as one.
        instead: the option that has each rank its own.

    Raises:
        UserError: there are several processes, whose highest scores nobody knows together.
    """
    if top_k and processes > 1:
        raise ConfigError(f"{key} counts one process's samples: with {processes} of them, add {instead}")


def check_quality(quality: Any) -> None:
    """
    Raises:
        ConfigError: a kind of box quality that there is not.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"quality (MODEL.PARAM_AP.QUALITY) must be one of {', '.join(QUALITIES)}, not {quality!r}")


def _warn_of_box_weights(cfg: CfgNode, heads: Sequence[str]) -> None:
    """Say what becomes of weights that are meant for the box losses of others."""
    for head, key, weight in (
        ("dense", "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", cfg.MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT),
        ("rpn", "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT),
        ("roi", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT),
    ):
        if head in heads and weight != 1:
            does = "is not used by" if head == "dense" else "weighs the localization term of"
            logger.warning("%s %g %s this loss, whose gradient scale is searched for a weight of 1", key, weight, does)


def check_loss(
    heads: Sequence[str],
    loss: str,
    quality: str = "giou",
    block_gradient: bool = True,
    top_k: int | None = None,
    grad_scale: float | None = None,
) -> None:
    """
    Raises:
        UserError: a loss that cannot be read, lacks one of the heads or has no use for an option, a kind of box quality
            that there is not.
    """
    check_quality(quality)
    if not isinstance(loss, str):
        raise ConfigError(f"loss (MODEL.PARAM_AP.LOSS) must be the name of a loss, not {loss!r}")
    if not isinstance(top_k or 0, int):
        raise ConfigError(f"top_k (MODEL.PARAM_AP.TOP_K) must be a whole number, not {top_k!r}")
    if (top_k or 0) < 0:
        raise ConfigError(f"top_k (MODEL.PARAM_AP.TOP_K) must be positive, or 0 for all, not {top_k}")
    if not 0 <= (grad_scale or 0.0) < math.inf:
        raise ConfigError(
            f"grad_scale (MODEL.PARAM_AP.GRAD_SCALE) must be positive, or 0 for the loss's own, not {grad_scale:g}"
        )
    for one in head_losses(load_any_loss(loss), tuple(heads), loss):
        if isinstance(one, Sibling):
            one.check_options(quality, block_gradient, top_k)


def check_end_loss(
    keys: tuple[str, str], loss: Any, share: Any, heads: Sequence[str], *given: Any, **others: Any
) -> None:
    """
    Args:
        keys: of the config, that name the next two.
        loss: that takes another's place for the end of a training; "": none.
        share: of the iterations that come before it.
        heads, given, others: as for :func:`check_loss`, of the loss whose place it takes.

    Raises:
        UserError: as :func:`check_loss`; no heads; a share that is not between 0 and 1.
    """
    if loss == "":
        return
    if not isinstance(loss, str):
        raise ConfigError(f"{keys[0]} must be the name of a loss, or empty, not {loss!r}")
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise ConfigError(f"{keys[1]} must lie between 0 and 1, a part of the iterations, not {share!r}")
    if not heads:
        raise ConfigError(
            f"{keys[0]} is {loss}, and the config's detector has no loss whose place it takes: leave it ''"
        )
    try:
        check_loss(heads, loss, *given, **others)
    except UserError as error:
        raise ConfigError(f"{keys[0]}: {error}") from None
