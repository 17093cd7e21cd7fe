"""Training and evaluation of what a LazyConfig describes, by Detectron2's simple trainer."""

from __future__ import annotations

import contextlib
import copy
from itertools import islice
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

import paramap_d2.data  # registers the data sets
import paramap_d2.modeling  # noqa: F401  registers the models
from paramap_d2.config.lazy import own_backbone_weights, test_loader_of, without_backbone_weights

from .calibration import CalibrationHook
from .checkpoint import TrainedCheckpointer, check_resumable, last_checkpoint, resumed_checkpoint, told_of_weights
from .cpu_speed import SameSizeBatches, channels_last_on_cpu, fused_on_cpu
from .trained_loss import TrainedLoss


def build_model(cfg: DictConfig, resume: bool = False) -> torch.nn.Module:
    """The config's model on the config's device.

    Args:
        resume: it gets its weights from the last checkpoint in the output folder, if there is one.
    """
    trained = cfg.train.init_checkpoint or (resume and last_checkpoint(cfg.train.output_dir))
    call = without_backbone_weights(cfg.model) if trained else cfg.model
    model = instantiate(call).to(cfg.train.device)
    return channels_last_on_cpu(model) if cfg.train.fast_cpu else model


def build_optimizer(cfg: DictConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer of a model."""
    call = copy.deepcopy(cfg.optimizer)  # the model is not to become part of the config
    call.params.model = model
    optimizer = instantiate(call)
    return fused_on_cpu(optimizer) if cfg.train.fast_cpu else optimizer


def check_resume(cfg: DictConfig) -> None:
    """Whether a training can go on in the config's output folder, before anything is written there. Without a
    checkpoint it can.

    Raises:
        UserError: see :func:`~paramap_d2.engine.checkpoint.check_resumable`.
    """
    if path := last_checkpoint(cfg.train.output_dir):
        model = instantiate(without_backbone_weights(cfg.model))
        check_resumable(model, build_optimizer(cfg, model), path)


def load_trained(cfg: DictConfig, model: torch.nn.Module, resume: bool = False) -> dict[str, Any]:
    """Load the weights that the config's model was trained to.

    Args:
        resume: those of the last checkpoint in the output folder, if there is one.

    Returns:
        what the checkpoint holds beside the weights.

    Raises:
        UserError: see :class:`~paramap_d2.engine.checkpoint.TrainedCheckpointer`.
    """
    checkpointer = TrainedCheckpointer(model, cfg.train.output_dir)
    return checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)


def check_trained(cfg: DictConfig, resume: bool = False) -> None:
    """Whether :func:`load_trained` will do, asked before several processes are started."""
    load_trained(cfg, instantiate(without_backbone_weights(cfg.model)), resume)


def build_trainer(cfg: DictConfig, resume: bool = False) -> SimpleTrainer:
    """The config's model, optimizer and data, ready to train, with no hooks but one: the learning rate's.

    They are made in the order of Detectron2's DefaultTrainer, so that the same seed draws the same numbers.

    Args:
        resume: as for :func:`build_model`.
    """
    model = build_model(cfg, resume)
    optimizer = build_optimizer(cfg, model)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    return trainer


def train(cfg: DictConfig, resume: bool = False) -> None:
    """Train with checkpoints, evaluations and events in ``train.output_dir``.

    Args:
        resume: go on from the last checkpoint there, if there is one.
    """
    trainer = build_trainer(cfg, resume)
    checkpointer = DetectionCheckpointer(trainer.model, cfg.train.output_dir, trainer=trainer)
    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            TrainedLoss(cfg.train.output_dir, cfg.train.end_loss, cfg.train.end_loss_from),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, trainer.model)),
            _calibration(cfg, trainer.model) if cfg.train.calibrate_on else None,
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period)
            if main
            else None,
        ]
    )
    path = resumed_checkpoint(cfg.train.output_dir) if resume else None
    if path:
        check_resumable(trainer.model, trainer.optimizer, path)
    with contextlib.nullcontext() if path else told_of_init_checkpoint(cfg, trainer.model):
        checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, cfg.train.max_iter)


def told_of_init_checkpoint(cfg: DictConfig, model: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """For the time in which a model is given the config's ``train.init_checkpoint``, see
    :func:`~paramap_d2.engine.checkpoint.told_of_weights`."""
    path = cfg.train.init_checkpoint
    return told_of_weights("train.init_checkpoint", path, model, own_backbone_weights(cfg.model))


def _calibration(cfg: DictConfig, model: torch.nn.Module) -> CalibrationHook:
    name = cfg.train.calibrate_on
    return CalibrationHook(model, name, lambda: build_calibration_loader(cfg, name), cfg.train.output_dir)


def build_calibration_loader(cfg: DictConfig, dataset_name: str) -> Any:
    """The config's test loader on another data set, in batches of one size where that is faster."""
    loader = instantiate(test_loader_of(cfg, dataset_name))
    images = OmegaConf.select(cfg, "dataloader.train.total_batch_size") or 1
    return SameSizeBatches(loader, images) if cfg.train.fast_cpu else loader


def evaluate(
    cfg: DictConfig, model: torch.nn.Module, images: int | None = None, first: int | None = None
) -> dict[str, Any]:
    """Figures of the config's evaluator on its test data, by task; empty without an evaluator.

    Args:
        images: of one size that the model is given together; None for what the config's loader gives.
        first: so many batches of the loader alone; None for all.
    """
    if "evaluator" not in cfg.dataloader:
        return {}
    loader = instantiate(cfg.dataloader.test)
    loader = loader if first is None else list(islice(loader, first))
    loader = loader if images is None else SameSizeBatches(loader, images)
    results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results
