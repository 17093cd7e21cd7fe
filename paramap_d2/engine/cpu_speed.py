"""What makes training on a CPU faster, asked for by one switch: ``MODEL.PARAM_AP.FAST_CPU``, of a LazyConfig
``train.fast_cpu``. A process that trains again and again, as a search's workers do, trains in :func:`fast_training`,
too. Figures are the same up to rounding; other devices need none of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from paramap_d2.modeling.timm_backbone import TimmBackbone

MANY_WEIGHTS = 6
"""Weights of a stage for each element of its input, above which its maps are put channels first."""

HELD = 8
"""Batches' worth of test images that may wait for others of their size."""

LIMIT = 2**29
"""Bytes of decoded images that a process holds, at most."""

_FEW_MAPS = 16
"""Maps in a batch, below which torch on one thread has no use for oneDNN's pointwise convolutions."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 2**31 - 1  # what both take: an int, in bytes

_images: dict[tuple[str, str | None], np.ndarray] = {}


@contextlib.contextmanager
def fast_training() -> Iterator[None]:
    """For the length of the context, a process that trains again and again: images are read once
    (:func:`images_read_once`) and denormal numbers, of which AdamW makes many at first, each many times as slow as
    another, are 0. For the life of the process it keeps freed memory (:func:`keep_freed_memory`)."""
    keep_freed_memory()
    torch.set_flush_denormal(True)
    try:
        with images_read_once():
            yield
    finally:
        torch.set_flush_denormal(False)


def channels_last_on_cpu(model: nn.Module) -> nn.Module:
    """The same model; its backbones hold maps channels last where they run on a CPU, which normalization, pooling and
    most convolutions are faster with: timm's all of them (EfficientNet-Lite0 takes a fifth off a RetinaNet's step), a
    ResNet but those of stages with many weights and small maps, which would spend their time in ordering weights. The
    pointwise convolutions of timm's take rows of maps for maps where that is faster (another seventh off that step).
    Results are the same up to rounding; nothing changes on other devices. (By hooks, which TorchScript cannot compile:
    a model to be scripted is built without.)"""
    for module in model.modules():
        if isinstance(module, TimmBackbone):
            module.register_forward_pre_hook(partial(_in_its_order, 0))
            for layer in module.modules():
                if type(layer) is nn.Conv2d and _is_pointwise(layer):
                    layer.forward = partial(_by_rows, layer)
        elif isinstance(module, ResNet):
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


def _is_pointwise(conv: nn.Conv2d) -> bool:
    plain = conv.stride == (1, 1) and conv.padding in ((0, 0), "valid", "same")
    return conv.kernel_size == (1, 1) and conv.groups == 1 and plain


def _by_rows(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """The pointwise convolution of (N, C, H, W) maps. On one thread, torch makes one matrix product of those of a small
    batch, which takes twice as long as oneDNN's convolution. (N H, C, 1, W) are many: the same memory by another name,
    and the same for each pixel."""
    one_thread = maps.device.type == "cpu" and torch.get_num_threads() == 1
    held = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    if not (one_thread and held and len(maps) < _FEW_MAPS):
        return nn.Conv2d.forward(conv, maps)
    rows = maps.permute(0, 2, 3, 1).flatten(0, 1)[:, None].permute(0, 3, 1, 2)
    out = nn.Conv2d.forward(conv, rows)
    return out.permute(0, 2, 3, 1).unflatten(0, (len(maps), -1)).squeeze(2).permute(0, 3, 1, 2)


def fused_on_cpu(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimizer, taking its step in one pass over each weight if all are on a CPU, where its default is a pass
    for each operation: a third of the time for AdamW. (On a GPU the default is fast.)"""
    for group in optimizer.param_groups:
        on_cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in group["params"])
        if "fused" in group and on_cpu and torch.__version__ >= (2, 4):  # before that, for GPUs alone
            group["fused"], group["foreach"] = True, False
    return optimizer


@contextlib.contextmanager
def images_read_once() -> Iterator[None]:
    """For the length of the context, Detectron2's data mappers get a copy of each image that this process has read in
    such a context before. The images of a small data set so are decoded once in the life of a process that trains on
    them many times; of a large one, as many as ``LIMIT`` allows. Image files must not change meanwhile.

    Processes of a loader (``DATALOADER.NUM_WORKERS``) do not outlive a training, and hold no more than they start with.
    """
    read_image = detection_utils.read_image
    held = sum(image.nbytes for image in _images.values())

    def read(file_name: str | os.PathLike[str], format: str | None = None) -> np.ndarray:
        nonlocal held
        key = os.path.abspath(file_name), format
        if key in _images:
            return _images[key].copy()
        image = read_image(file_name, format)
        if get_worker_info() is None and held + image.nbytes <= LIMIT:
            held += image.nbytes
            _images[key] = np.array(image, order="C")  # Detectron2's is a view of another order of channels
        return image

    detection_utils.read_image = read
    try:
        yield
    finally:
        detection_utils.read_image = read_image


class SameSizeBatches:
    """A test loader's images in batches of one size, so that none is padded and each is detected as if it were alone.

    Detectron2's test loaders give one image at a time, which leaves a device waiting and, on a CPU, takes the slower
    of the convolution's algorithms.

    Args:
        loader: gives lists of dicts with a (C, H, W) ``image``, as Detectron2's test loaders do; sized.
        images: in a batch, at most.
    """

    def __init__(self, loader: Iterable[list[dict[str, Any]]], images: int):
        if images < 1:
            raise ValueError(f"images must be at least 1, not {images}")
        self.loader, self.images = loader, images

    def __len__(self) -> int:
        """Batches at most."""
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        waiting: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
        held = 0
        for inputs in self.loader:
            for one in inputs:
                size = tuple(one["image"].shape)
                waiting[size].append(one)
                held += 1
                if len(waiting[size]) < self.images:
                    if held < HELD * self.images:
                        continue
                    size = max(waiting, key=lambda s: len(waiting[s]))
                batch = waiting.pop(size)
                held -= len(batch)
                yield batch
        yield from waiting.values()


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation, instead of handing it back to the system.

    A training step on the CPU frees tensors of megabytes that the next step asks for again; each time the system
    would have to find and clear their pages anew. Results are the same. The process stays as large as it has once
    been, and does not shrink between a training and the next. For the life of the process.

    Returns:
        whether the C library took it; False, and nothing done, where it is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, _LARGEST) for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
