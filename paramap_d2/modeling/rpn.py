"""Region Proposal Network with the Parameterized AP Loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes
from torch import Tensor

from .box_ap_loss import BoxAPLoss, param_ap_options


@PROPOSAL_GENERATOR_REGISTRY.register()
class ParamAPRPN(RPN):
    """RPN whose losses are the two terms of one Parameterized AP Loss (head ``rpn``) over all anchors of the batch.

    Args:
        param_ap: the options of :class:`paramap_d2.modeling.BoxAPLoss`.
        others: as for RPN. Anchors are not sampled: ``batch_size_per_image`` and ``positive_fraction`` have no effect.
    """

    @configurable
    def __init__(self, *, param_ap: Mapping[str, Any], **kwargs):
        super().__init__(**kwargs)
        self.box_ap_loss = BoxAPLoss("rpn", **param_ap)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "param_ap": param_ap_options(cfg)}

    def _subsample_labels(self, label: Tensor) -> Tensor:
        return label

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """As :meth:`RPN.losses`: ``loss_rpn_cls`` is the ranking term, ``loss_rpn_loc`` the localization term."""
        anchor_boxes = Boxes.cat(anchors).tensor
        deltas = cat(pred_anchor_deltas, dim=1).flatten(0, 1)

        def boxes_of(index: Tensor) -> Tensor:
            return self.box2box_transform.apply_deltas(deltas[index], anchor_boxes[index % len(anchor_boxes)])

        objectness = torch.cat(gt_labels)  # 1 object, 0 background, −1 ignored
        labels = torch.where(objectness < 0, objectness, 1 - objectness)  # class 0 of one class, or 1 for background
        ranking, localization = self.box_ap_loss(
            cat(pred_objectness_logits, dim=1).reshape(-1, 1), labels, boxes_of, torch.cat(gt_boxes)
        )
        losses = {"loss_rpn_cls": ranking, "loss_rpn_loc": localization}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}
