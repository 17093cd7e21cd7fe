"""Detectron2's default trainer with what this project's configs ask for."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping

import paramap_d2.modeling  # noqa: F401  registers the models
from paramap_d2.data import build_evaluator, build_train_mapper

from .calibration import CalibrationHook
from .checkpoint import TrainedCheckpointer, check_resumable, last_checkpoint, resumed_checkpoint, told_of_weights
from .cpu_speed import SameSizeBatches, channels_last_on_cpu, fused_on_cpu
from .solver import lr_factors
from .trained_loss import TrainedLoss


class Trainer(DefaultTrainer):
    """Evaluates by the data set's kind, augments as SSD where asked to, and optimizes with SGD or AdamW."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        model = super().build_model(cfg)
        return channels_last_on_cpu(model) if cfg.MODEL.PARAM_AP.FAST_CPU else model

    @classmethod
    def check_resume(cls, cfg: CfgNode) -> None:
        """Whether a training can go on in the config's output folder, before anything is written there. Without a
        checkpoint it can.

        Raises:
            UserError: see :func:`~paramap_d2.engine.checkpoint.check_resumable`.
        """
        if path := last_checkpoint(cfg.OUTPUT_DIR):
            cfg = resumed(_on_cpu(cfg))
            model = cls.build_model(cfg)
            check_resumable(model, cls.build_optimizer(cfg, model), path)

    @classmethod
    def build_trained(cls, cfg: CfgNode, resume: bool = False) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The config's detector as it was trained, and what its checkpoint holds beside the weights.

        Args:
            resume: of the last checkpoint in the output folder, if there is one.

        Raises:
            UserError: see :class:`~paramap_d2.engine.checkpoint.TrainedCheckpointer`.
        """
        model = cls.build_model(resumed(cfg) if resume else cfg)
        return model, TrainedCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)

    @classmethod
    def check_trained(cls, cfg: CfgNode, resume: bool = False) -> None:
        """Whether :meth:`build_trained` will do, asked before several processes are started."""
        cls.build_trained(_on_cpu(cfg), resume)

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer's. Raises UserError where the last checkpoint is of another model, or weights to start from
        cannot be had."""
        path = resumed_checkpoint(self.cfg.OUTPUT_DIR) if resume else None
        if path:
            check_resumable(self.model, self.optimizer, path)
        timm = self.cfg.MODEL.TIMM.WEIGHTS and f"MODEL.TIMM.WEIGHTS {self.cfg.MODEL.TIMM.WEIGHTS}"
        begin = told_of_weights("MODEL.WEIGHTS", self.cfg.MODEL.WEIGHTS, self.model, timm)
        with contextlib.nullcontext() if path else begin:
            super().resume_or_load(resume)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: torch.nn.Module) -> OrderedDict[str, Any]:
        """Figures with test-time augmentation (``TEST.AUG``, R-CNNs alone), under keys that end with ``_TTA``."""
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(cfg.OUTPUT_DIR, "inference_TTA")) for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{key}_TTA", value) for key, value in results.items())

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """The data set's evaluator, which leaves the predictions in ``OUTPUT_DIR/inference``, as Detectron2's own
        train_net.py has it."""
        scores = (output_folder or cfg.OUTPUT_DIR) if cfg.TEST.SCORE_FIGURES else None
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(dataset_name, folder, scores=scores, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS)

    def build_hooks(self) -> list[HookBase | None]:
        options = self.cfg.MODEL.PARAM_AP
        made = [
            TrainedLoss(self.cfg.OUTPUT_DIR, options.END_LOSS, options.END_LOSS_FROM),
            *super().build_hooks(),
        ]
        if name := options.CALIBRATE_ON:
            loader = partial(self.build_calibration_loader, self.cfg, name)
            made.append(CalibrationHook(self.model, name, loader, self.cfg.OUTPUT_DIR))
        if self.cfg.TEST.AUG.ENABLED:
            made.append(hooks.EvalHook(0, lambda: self.test_with_TTA(self.cfg, self.model)))
        return made

    @classmethod
    def build_calibration_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The test loader, in batches of one size where that is faster."""
        loader = cls.build_test_loader(cfg, dataset_name)
        return SameSizeBatches(loader, cfg.SOLVER.IMS_PER_BATCH) if cfg.MODEL.PARAM_AP.FAST_CPU else loader

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg, mapper=build_train_mapper(cfg))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
            # Both factors in one: Detectron2's own for biases would take the place of the others.
            lr_factor_func=lr_factors(cfg.SOLVER.LR_FACTORS, cfg.SOLVER.BIAS_LR_FACTOR),
        )
        options = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
        if cfg.SOLVER.OPTIMIZER == "SGD":
            options.update(momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV)
        kind = {"SGD": torch.optim.SGD, "ADAMW": torch.optim.AdamW}[cfg.SOLVER.OPTIMIZER]
        optimizer = maybe_add_gradient_clipping(cfg, kind)(params, **options)
        return fused_on_cpu(optimizer) if cfg.MODEL.PARAM_AP.FAST_CPU else optimizer


def resumed(cfg: CfgNode) -> CfgNode:
    """The config of a training that goes on. Where there is a last checkpoint, that holds the backbone, and what the
    backbone once began with need not be there."""
    if last_checkpoint(cfg.OUTPUT_DIR) is None:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.WEIGHTS = ""
    return cfg


def _on_cpu(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return cfg
