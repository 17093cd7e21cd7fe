"""The ranking loss of one detection head: from logits, labels and boxes to its two terms."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from paramap_d2.losses import (
    SIBLINGS,
    APLossTerms,
    HeadLoss,
    ParameterizedAPLoss,
    RankingLoss,
    Sibling,
    box_quality,
    head_losses,
    load_any_loss,
)
from paramap_d2.losses.global_batch import several_processes
from paramap_d2.losses.quality import QUALITIES

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt


class BoxAPLoss:
    """The loss of one head, read from its preset or file when it is first called: a detector that only infers needs
    none. It is no module, so that a detector's state dict, and what TorchScript compiles of it, stay as they are.

    Args:
        head: its key in the loss file, and its name in the event storage: ``param_ap/<head>_positives`` (number of
            positives) and ``param_ap/<head>_quality`` (their mean quality) are logged every iteration.
        loss: a preset or the path of a loss file: the Parameterized AP Loss; or one of
            :data:`paramap_d2.losses.SIBLINGS`, which have no use for the next three options.
        quality: kind of box quality, see :func:`paramap_d2.losses.box_quality`.
        block_gradient, top_k: see :class:`paramap_d2.losses.ParameterizedAPLoss`; a ``top_k`` of 0 keeps all.
        global_batch: see there too; with one process it changes nothing.
        grad_scale: in place of the loss file's; 0 or None takes the loss file's.

    Raises:
        ValueError: another kind of quality.
    """

    def __init__(
        self,
        head: str,
        loss: str,
        quality: str = "giou",
        block_gradient: bool = True,
        top_k: int | None = None,
        grad_scale: float | None = None,
        global_batch: bool = True,
    ):
        if quality not in QUALITIES:
            raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, not {quality!r}")
        self.head, self.loss, self.quality = head, loss, quality
        self.block_gradient, self.top_k, self.grad_scale = block_gradient, top_k or None, grad_scale or None
        self.global_batch = global_batch

    def read(self, loss: str) -> HeadLoss | Sibling:
        """What this head would train with by a preset, a loss file or the name of a loss without functions.

        Raises:
            UserError: the loss cannot be read, lacks the head, or has no use for an option.
        """
        (found,) = head_losses(load_any_loss(loss), (self.head,), loss)
        if isinstance(found, Sibling):
            found.check_options(self.quality, self.block_gradient, self.top_k)
        return replace(found, grad_scale=self.grad_scale or found.grad_scale)

    @cached_property
    def head_loss(self) -> HeadLoss | Sibling:
        """What it trains with, and the gradient scale. Raises UserError as :meth:`read`."""
        return self.read(self.loss)

    @cached_property
    def ranking_loss(self) -> RankingLoss:
        head = self.head_loss
        together = self.global_batch and several_processes()
        if isinstance(head, Sibling):
            return SIBLINGS[head.name](head.grad_scale, together)
        return ParameterizedAPLoss(head.functions, self.block_gradient, self.top_k, head.grad_scale, together)

    def change(self, loss: str, head_loss: HeadLoss | Sibling) -> None:
        """Go on with another loss: its name, and what :meth:`read` gave of it."""
        self.loss, self.head_loss = loss, head_loss
        self.__dict__.pop("ranking_loss", None)

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        boxes_of: Callable[[Tensor], Tensor],
        gt_boxes: Tensor,
    ) -> APLossTerms:
        """
        Args:
            logits: (M, C), one score for each candidate box and class.
            labels: (M,) integers: the class of a candidate's object, C for background, −1 for ignored.
            boxes_of: gives the (P, 4) predicted boxes, differentiable, of the candidates at (P,) indices; called
                once, for the positives.
            gt_boxes: (M, 4) the box of each candidate's object; read at positives.

        Returns:
            The ranking term (instead of a classification loss) and the localization term (instead of a box loss).
        """
        num_classes = logits.shape[1]
        positive, qualities = self._positives(labels, num_classes, boxes_of, gt_boxes)
        # By index: a mask would be read at every score, and again at every gradient.
        scores = logits.index_fill(0, (labels < 0).nonzero().squeeze(1), -torch.inf).flatten()
        terms = self.ranking_loss.terms(scores, positive * num_classes + labels[positive], *qualities)
        self._log("", qualities[0])
        return terms

    def of_layers(self, logits: Tensor, labels: Tensor, boxes: Tensor, gt_boxes: Tensor) -> APLossTerms:
        """The losses of a decoder's layers, each of which matches as many of its candidates with an object.

        Args:
            logits: (L, M, C) of L layers.
            labels: (L, M) integers: the class of a candidate's object, C for background.
            boxes: (L, M, 4), differentiable.
            gt_boxes: (L, M, 4).

        Returns:
            (L,) each. Layers other than the last are logged with ``_0``, ``_1``, … after the head's name.
        """
        layers, candidates, num_classes = logits.shape
        labels = labels.flatten()
        positive, qualities = self._positives(
            labels, num_classes, boxes.flatten(0, 1).__getitem__, gt_boxes.flatten(0, 1)
        )
        sample = (positive % candidates * num_classes + labels[positive]).view(layers, -1)
        of_each = [quality.view(layers, -1) for quality in qualities]
        for layer, quality in enumerate(of_each[0]):
            self._log(f"_{layer}" if layer < layers - 1 else "", quality)
        return self.ranking_loss.terms_of_each(logits.flatten(1), sample, *of_each)

    def _positives(
        self, labels: Tensor, num_classes: int, boxes_of: Callable[[Tensor], Tensor], gt_boxes: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The indices of the candidates with an object, and the qualities of their boxes that the loss takes.

        Raises:
            ValueError: a class that the detector does not know; on a GPU a device-side assertion, not waited for.
        """
        if len(labels):
            highest = labels.max()
            if not labels.is_cpu:
                torch._assert_async(highest <= num_classes, "an object's class is beyond the detector's")
            elif highest > num_classes:
                raise ValueError(f"an object has class {int(highest)}, and the detector {num_classes}, from 0 on")
        positive = ((labels >= 0) & (labels < num_classes)).nonzero().squeeze(1)
        boxes, wanted = boxes_of(positive), gt_boxes[positive]
        kinds = self.ranking_loss.qualities or (self.quality,)
        return positive, [box_quality(boxes, wanted, kind) for kind in kinds]

    def _log(self, suffix: str, quality: Tensor) -> None:
        if has_event_storage():
            storage = get_event_storage()
            storage.put_scalar(f"param_ap/{self.head}{suffix}_positives", len(quality))
            if len(quality):
                storage.put_scalar(f"param_ap/{self.head}{suffix}_quality", quality.detach().mean())


def all_box_ap_losses(model: nn.Module) -> list[BoxAPLoss]:
    """The losses of all of a model's parts; a head may have several."""
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, BoxAPLoss)]


def box_ap_losses(model: nn.Module) -> dict[str, BoxAPLoss]:
    """The losses that a model trains with, by head; of several of a head the first."""
    found: dict[str, BoxAPLoss] = {}
    for loss in all_box_ap_losses(model):
        found.setdefault(loss.head, loss)
    return found


@cache
def warn_of_score_threshold(detector: str, key: str, threshold: float) -> None:
    """Say once what a score threshold above 0 costs."""
    if threshold > 0:
        logger.warning(
            f"{detector}: {key} is {threshold:g}, and scores of a loss that ranks are no probabilities: in our "
            "trainings false detections came to about 0.01 and true ones to 0.1; a threshold of 0.05 cost a fifth of "
            "AP, one of 0.5 left nothing. Set it to 0 unless the weights are calibrated (paramap calibrate)."
        )


def logit(score: float) -> float:
    """The logit above which sigmoids are above a score; −∞ for 0, which thus keeps all."""
    if score <= 0:
        return -math.inf
    return math.log(score / (1 - score)) if score < 1 else math.inf


def param_ap_options(cfg: CfgNode) -> dict[str, Any]:
    """The ``param_ap`` argument of the detectors from ``cfg.MODEL.PARAM_AP``."""
    of_training = ("END_LOSS", "END_LOSS_FROM", "FAST_CPU", "CALIBRATE_ON")
    return {key.lower(): value for key, value in cfg.MODEL.PARAM_AP.items() if key not in of_training}
