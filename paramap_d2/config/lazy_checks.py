"""What can be known to be wrong with a LazyConfig before a model is built."""

from __future__ import annotations

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from paramap_d2.files import make_output_folder

from .checks import (
    check_data,
    check_end_loss,
    check_loss,
    check_quality,
    check_top_k,
    has_checkpoint,
    warn_if_trained_on,
)
from .lazy import calls_of, dataset_names, losses_of, num_classes, target, test_loader_of
from .stock_keys import (
    ConfigError,
    check_amp,
    check_batch,
    check_lazy_stock_keys,
    check_number,
    check_weights,
    did_you_mean,
    references_resolved,
)


@references_resolved()
def check_lazy_config(
    cfg: DictConfig,
    eval_only: bool = False,
    resume: bool = False,
    fitness: bool = False,
    processes: int = 1,
    elsewhere: bool = False,
) -> None:
    """Everything that can be known to be wrong before a model is built; arguments as those of ``check_config``.

    Raises:
        UserError: a data set that is not there, a class count that does not fit it, a loss that cannot be read.
    """
    from paramap_d2.data import build_evaluator

    check_lazy_stock_keys(cfg, eval_only, elsewhere)
    for key, what in (("output_dir", "path of a folder"), ("calibrate_on", "name of a data set")):
        if not isinstance(cfg.train[key], str):
            raise ConfigError(f"train.{key} must be the {what}, not {cfg.train[key]!r}")
    if not fitness:
        make_output_folder(cfg.train.output_dir)
    goes_on = resume and has_checkpoint(cfg.train.output_dir)
    if not goes_on:
        check_weights("train.init_checkpoint", cfg.train.init_checkpoint, needed=eval_only)
    if not eval_only:
        check_amp("train.amp.enabled", cfg.train.amp.enabled, elsewhere)
        batch = "dataloader.train.total_batch_size"
        check_batch(batch, OmegaConf.select(cfg, batch), 1 if fitness else processes)
    test = dataset_names(cfg, ["test"])
    # A loader of the user's own may have no name that the evaluator's ${…} could refer to.
    evaluated = OmegaConf.select(cfg, "dataloader.evaluator.dataset_name", throw_on_resolution_failure=False)
    if test and evaluated and test != [evaluated]:
        raise ConfigError(
            f"dataloader.evaluator is of data set {evaluated}, and dataloader.test gives images of {', '.join(test)}"
        )
    fitness_on = tuple(test) if fitness else ()
    train = [] if eval_only else dataset_names(cfg, ["train"])
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
    own = isinstance(evaluator, DictConfig) and target(evaluator) is not build_evaluator
    more: dict[str, Any] = {"own_evaluator": own, "fitness": fitness_on}
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    if isinstance(mapper, DictConfig) and mapper.get("use_instance_mask"):
        key = "instance_mask_format"
        more["masks"] = f"dataloader.train.mapper.{key}", mapper.get(key, "polygon")
    keypoint_head = OmegaConf.select(cfg, "model.roi_heads.keypoint_head")
    if isinstance(keypoint_head, DictConfig) and "num_keypoints" in keypoint_head and not own:
        more["keypoints"] = "model.roi_heads.keypoint_head.num_keypoints", keypoint_head.num_keypoints
    if cfg.train.calibrate_on and not eval_only:
        more["calibrated"] = "train.calibrate_on", cfg.train.calibrate_on
        warn_if_trained_on(cfg.train.calibrate_on, train)
    classes = num_classes(cfg)
    if classes:
        check_number(*classes, 1)
        _check_class_counts(cfg, *classes)
    check_data(train, test, classes, cfg.train.check_images, **more)
    _check_detr(cfg)
    if not (OmegaConf.select(cfg, "train.init_checkpoint") or goes_on):
        _check_timm(cfg)
    if cfg.train.calibrate_on:
        test_loader_of(cfg, cfg.train.calibrate_on)
    end = ("train.end_loss", "train.end_loss_from"), cfg.train.end_loss, cfg.train.end_loss_from
    if not losses_of(cfg) and not eval_only:
        check_end_loss(*end, ())
    for head, of_head in losses_of(cfg).items():
        for options in of_head:
            known = ("quality", "block_gradient", "top_k", "grad_scale")
            others = {key: options[key] for key in known if key in options}
            for key in options:
                if key not in (*known, "loss", "global_batch"):
                    hint = did_you_mean(key, (*known, "loss", "global_batch"))
                    raise ConfigError(f"{options._get_full_key(key)} is no option of the loss{hint}")
            if eval_only:  # inference needs no loss
                check_quality(options.get("quality", "giou"))
                continue
            check_loss((head,), options.loss, **others)
            if options.get("global_batch", True):
                key = options._get_full_key
                check_top_k(key("top_k"), options.get("top_k"), f"{key('global_batch')}=False", processes)
            check_end_loss(*end, (head,), **others)


def _check_class_counts(cfg: DictConfig, key: str, number: int) -> None:
    """
    Raises:
        ConfigError: a part that is trained by a number of classes of its own.
    """
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers

    from paramap_d2.modeling import FocalCriterion, ParamAPCriterion

    for call in calls_of(cfg.model):
        kind = target(call)
        if isinstance(kind, type) and issubclass(kind, FastRCNNOutputLayers | ParamAPCriterion | FocalCriterion):
            own = call.get("num_classes")
            if own is not None and own != number:
                raise ConfigError(
                    f"{call._get_full_key('num_classes')} is {own}, and {key} {number}: give both the same, by a "
                    "reference such as ${..num_classes}"
                )


def _check_detr(cfg: DictConfig) -> None:
    from paramap_d2.modeling import ParamAPDeformableDETR
    from paramap_d2.modeling.deformable_detr import check_options
    from paramap_d2.modeling.transformers_adapter import check_detr_library

    own = inspect.signature(ParamAPDeformableDETR.__init__).parameters
    for call in calls_of(cfg.model):
        if target(call) is ParamAPDeformableDETR:
            check_detr_library()
            names = "hidden_dim", "num_heads", "num_feature_levels", "dec_layers", "num_queries", "dropout"
            hidden, heads, *others = (call.get(name, own[name].default) for name in names)
            try:
                check_options(hidden, heads, len(call.in_features), *others)
            except ValueError as error:
                raise ConfigError(f"the model's {error}") from None


def _check_timm(cfg: DictConfig) -> None:
    from paramap_d2.modeling.timm_backbone import TimmBackbone, check_pixels

    for call in calls_of(cfg.model):
        if target(call) is TimmBackbone:
            images = OmegaConf.select(cfg, "dataloader.train.mapper.image_format")
            mean, std = cfg.model.get("pixel_mean", ()), cfg.model.get("pixel_std", ())
            check_pixels(call.name, call.get("weights", ""), images, list(mean), list(std))
