"""The order in which a ResNet's maps lie in memory on a CPU."""

from __future__ import annotations

from functools import partial

import torch
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn

MANY_WEIGHTS = 6
"""Weights of a stage for each element of its input, above which its maps are put channels first."""


def channels_last_on_cpu(model: nn.Module) -> nn.Module:
    """The same model; its ResNets hold large maps channels last where they run on a CPU, which normalization, pooling
    and most convolutions are faster with. Stages of many weights and small maps, which would spend their time in
    ordering weights, hold them channels first. Results are the same up to rounding; nothing changes on other devices.
    (By hooks, which TorchScript cannot compile: script a model of Detectron2's own ``build_model``.)"""
    for module in model.modules():
        if isinstance(module, ResNet):
            for stage in (module.stem, *module.stages):
                weights = sum(p.numel() for p in stage.parameters())
                stage.register_forward_pre_hook(partial(_in_its_order, weights))
    return model


def _in_its_order(weights: int, stage: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    (maps,) = inputs
    if maps.device.type != "cpu":
        return None
    few = weights <= MANY_WEIGHTS * maps.numel()
    return (maps.contiguous(memory_format=torch.channels_last if few else torch.contiguous_format),)
