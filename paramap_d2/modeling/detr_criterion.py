"""What Deformable DETR trains with: criteria that match queries and objects and give each decoder layer's losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn
from torch import distributed as dist
from torchvision.ops import box_convert

from paramap_d2.losses.global_batch import several_processes

from .box_ap_loss import BoxAPLoss, param_ap_options
from .transformers_adapter import build_focal_loss, build_matcher

CRITERIA = ("param_ap", "focal")
"""The names of :class:`ParamAPCriterion` and :class:`FocalCriterion` in YAML configs."""


class ParamAPCriterion(nn.Module):
    """A Parameterized AP Loss (head ``detr``) for every decoder layer, on its own Hungarian matching; all in one call.

    All (query, class) pairs of the batch are ranked against each other, matched pairs are the positives. The loss does
    not care where zero is, so that scores are not calibrated and the detector's ``score_thresh`` should stay 0.

    Args:
        num_classes: without a background class.
        param_ap: the options of :class:`paramap_d2.modeling.BoxAPLoss`.
        class_weight, l1_weight, giou_weight: of the matching costs.
    """

    def __init__(
        self,
        num_classes: int,
        param_ap: Mapping[str, Any],
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = build_matcher(class_weight, l1_weight, giou_weight)
        self.box_ap_loss = BoxAPLoss("detr", **param_ap)

    def forward(self, logits: Tensor, boxes: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """
        Args:
            logits: (L, N, Q, C) of L decoder layers, N images, Q queries.
            boxes: (L, N, Q, 4), (center x, center y, width, height) in units of the image's width and height.
            instances: the N images' ``gt_boxes`` and ``gt_classes``.

        Returns:
            ``loss_cls``, the ranking term, and ``loss_box_reg``, the localization term, of the last layer; of the
            others with ``_0``, ``_1``, … appended.
        """
        _check_classes(logits, self.num_classes)
        sizes, targets = _sizes(instances), _targets(instances)
        # In pixels: the smallest areas that box_quality tells from 0 are far below those of boxes.
        corners = box_convert(boxes, "cxcywh", "xyxy") * sizes[:, None]
        gt_corners = [x.gt_boxes.tensor for x in instances]
        labels = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        gt_boxes = torch.zeros_like(corners)
        for layer, (s, b) in enumerate(zip(logits, boxes, strict=True)):
            for image, (query, match) in enumerate(self.matcher({"logits": s, "pred_boxes": b}, targets)):
                labels[layer, image, query] = targets[image]["class_labels"][match]
                gt_boxes[layer, image, query] = gt_corners[image][match].to(gt_boxes)
        terms = self.box_ap_loss.of_layers(*(x.flatten(1, 2) for x in (logits, labels, corners, gt_boxes)))
        losses = {}
        for suffix, ranking, localization in zip(_suffixes(len(logits)), *terms, strict=True):
            losses[f"loss_cls{suffix}"], losses[f"loss_box_reg{suffix}"] = ranking, localization
        return losses


class FocalCriterion(nn.Module):
    """Deformable DETR's own losses, the baseline: focal, L1 and GIoU of every decoder layer's Hungarian matching.

    Args:
        num_classes: without a background class.
        class_weight, l1_weight, giou_weight: of the matching costs and of the losses.
    """

    def __init__(self, num_classes: int, class_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0):
        super().__init__()
        self.num_classes = num_classes
        self.focal_loss = build_focal_loss(build_matcher(class_weight, l1_weight, giou_weight), num_classes)
        self.weights = {
            "loss_cls": ("loss_ce", class_weight),
            "loss_box_reg": ("loss_bbox", l1_weight),
            "loss_giou": ("loss_giou", giou_weight),
        }

    def forward(self, logits: Tensor, boxes: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """As :meth:`ParamAPCriterion.forward`, with ``loss_giou`` beside the others."""
        _check_classes(logits, self.num_classes)
        *others, last = [{"logits": s, "pred_boxes": b} for s, b in zip(logits, boxes, strict=True)]
        terms = self.focal_loss({**last, "auxiliary_outputs": others}, _targets(instances))
        share = _share_of_objects(sum(map(len, instances)), logits.device)
        return {
            name + suffix: terms[key + suffix] * (weight * share)
            for suffix in _suffixes(len(logits))
            for name, (key, weight) in self.weights.items()
        }


def _check_classes(logits: Tensor, num_classes: int) -> None:
    if logits.shape[-1] != num_classes:
        raise ValueError(f"the criterion is for {num_classes} classes, and the detector has {logits.shape[-1]}")


def _share_of_objects(own: int, device: torch.device) -> float:
    """What makes a mean over this process's objects one over the mean number of all processes', as Deformable DETR's
    authors normalize: the gradients' mean is then that of the whole batch."""
    if not several_processes():
        return 1.0
    total = torch.tensor(float(own), device=device)
    dist.all_reduce(total)
    return max(own, 1) / max(total.item() / dist.get_world_size(), 1.0)


def check_criterion(name: str) -> None:
    """Whether a YAML config can name it.

    Raises:
        ValueError: names those that there are.
    """
    if name not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, not {name!r}")


def build_criterion(cfg: CfgNode) -> nn.Module:
    """The criterion that ``MODEL.DEFORMABLE_DETR.CRITERION`` names."""
    detr = cfg.MODEL.DEFORMABLE_DETR
    check_criterion(detr.CRITERION)
    weights = detr.CLASS_WEIGHT, detr.L1_WEIGHT, detr.GIOU_WEIGHT
    if detr.CRITERION == "focal":
        return FocalCriterion(detr.NUM_CLASSES, *weights)
    return ParamAPCriterion(detr.NUM_CLASSES, param_ap_options(cfg), *weights)


def _suffixes(layers: int) -> list[str]:
    return [*(f"_{layer}" for layer in range(layers - 1)), ""]


def _sizes(instances: list[Instances]) -> Tensor:
    """(N, 4): each image's width and height, twice."""
    return torch.stack([x.gt_boxes.tensor.new_tensor([*x.image_size[::-1]] * 2) for x in instances])


def _targets(instances: list[Instances]) -> list[dict[str, Tensor]]:
    """The ground truth as the library has it."""
    return [
        {"class_labels": x.gt_classes, "boxes": box_convert(x.gt_boxes.tensor, "xyxy", "cxcywh") / size}
        for x, size in zip(instances, _sizes(instances), strict=True)
    ]
