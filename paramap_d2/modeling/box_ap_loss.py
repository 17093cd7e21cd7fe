"""The Parameterized AP Loss of one detection head: from logits, labels and boxes to its two terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from paramap_d2.losses import (
    APLossTerms,
    HeadLoss,
    ParameterizedAPLoss,
    box_quality,
    head_losses,
    load_loss,
)


class BoxAPLoss(nn.Module):
    """The loss of one head. It has no parameters or buffers, so a detector's state dict stays as it is.

    Args:
        name: the head's name in the event storage: ``param_ap/<name>_positives`` (number of positives) and
            ``param_ap/<name>_quality`` (their mean quality) are logged every iteration.
        head: functions and gradient scale.
        quality: kind of box quality, see :func:`paramap_d2.losses.box_quality`.
        block_gradient, top_k: see :class:`paramap_d2.losses.ParameterizedAPLoss`.
    """

    def __init__(
        self,
        name: str,
        head: HeadLoss,
        quality: str = "giou",
        block_gradient: bool = True,
        top_k: int | None = None,
    ):
        super().__init__()
        self.name = name
        self.quality = quality
        self.ap_loss = ParameterizedAPLoss(head.functions, block_gradient, top_k, head.grad_scale)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        boxes_of: Callable[[Tensor], Tensor],
        gt_boxes: Tensor,
        suffix: str = "",
    ) -> APLossTerms:
        """
        Args:
            logits: (M, C), one score for each candidate box and class.
            labels: (M,) integers: the class of a candidate's object, C for background, −1 for ignored.
            boxes_of: gives the (P, 4) predicted boxes, differentiable, of the candidates at (P,) indices; called
                once, for the positives.
            gt_boxes: (M, 4) the box of each candidate's object; read at positives.
            suffix: of the name that it is logged under, where a head has several losses.

        Returns:
            The ranking term (instead of a classification loss) and the localization term (instead of a box loss).
        """
        num_classes = logits.shape[1]
        positive = ((labels >= 0) & (labels < num_classes)).nonzero().squeeze(1)
        quality = box_quality(boxes_of(positive), gt_boxes[positive], self.quality)
        # By index: a mask would be read at every score, and again at every gradient.
        scores = logits.index_fill(0, (labels < 0).nonzero().squeeze(1), -torch.inf).flatten()
        terms = self.ap_loss.terms(scores, positive * num_classes + labels[positive], quality)
        if has_event_storage():
            storage = get_event_storage()
            storage.put_scalar(f"param_ap/{self.name}{suffix}_positives", len(positive))
            if len(positive):
                storage.put_scalar(f"param_ap/{self.name}{suffix}_quality", quality.detach().mean())
        return terms


def build_box_ap_losses(heads: Mapping[str, str], options: Mapping[str, Any]) -> list[BoxAPLoss]:
    """The losses of a detector's heads.

    Args:
        heads: the head keys of the loss file that the detector needs, each with the name it is logged under.
        options: ``loss`` (preset or path) and, optionally, ``quality``, ``block_gradient``, ``top_k`` and
            ``grad_scale``: the keys of ``cfg.MODEL.PARAM_AP`` in lower case.

    Raises:
        LossFileError: the loss cannot be read, or lacks a head.
    """
    options = dict(options)
    source = options.pop("loss")
    grad_scale = options.pop("grad_scale", None)
    losses = head_losses(load_loss(source), tuple(heads), source)
    if grad_scale:
        losses = [HeadLoss(loss.functions, grad_scale) for loss in losses]
    options["top_k"] = options.get("top_k") or None
    return [BoxAPLoss(name, loss, **options) for name, loss in zip(heads.values(), losses, strict=True)]


def param_ap_options(cfg: CfgNode) -> dict[str, Any]:
    """The ``param_ap`` argument of the detectors from ``cfg.MODEL.PARAM_AP``."""
    return {key.lower(): value for key, value in cfg.MODEL.PARAM_AP.items() if key != "FAST_CPU"}
