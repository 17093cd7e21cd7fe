"""FCOS with the Parameterized AP Loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from .box_ap_loss import BoxAPLoss, warn_of_score_threshold


class ParamAPFCOS(FCOS):
    """FCOS whose classification and box losses are the two terms of one Parameterized AP Loss (head ``dense``).

    The centerness keeps its own loss, because stock inference multiplies scores by it. Like Detectron2's FCOS it is
    built in Python or by a LazyConfig, where ``test_score_thresh`` should be 0: a ranking loss leaves scores
    uncalibrated.

    Args:
        param_ap: the options of :class:`paramap_d2.modeling.BoxAPLoss`.
        others: as for FCOS; the focal loss's parameters have no effect.
    """

    def __init__(self, *, param_ap: Mapping[str, Any], **kwargs):
        super().__init__(**kwargs)
        self.box_ap_loss = BoxAPLoss("dense", **param_ap)
        warn_of_score_threshold(type(self).__name__, "test_score_thresh", self.test_score_thresh)

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """As :meth:`FCOS.losses`: ``loss_fcos_cls`` is the ranking term, ``loss_fcos_loc`` the localization term, and
        ``loss_fcos_ctr`` the mean over positives of the stock centerness loss."""
        anchor_boxes = Boxes.cat(anchors).tensor
        deltas = cat(pred_anchor_deltas, dim=1).flatten(0, 1)
        labels = torch.cat(gt_labels)

        def boxes_of(index: Tensor) -> Tensor:
            # The transform keeps the deltas' type, and halves are too coarse for pixels.
            own = deltas[index].to(torch.promote_types(deltas.dtype, torch.float32))
            return self.box2box_transform.apply_deltas(own, anchor_boxes[index % len(anchor_boxes)])

        ranking, localization = self.box_ap_loss(
            cat(pred_logits, dim=1).flatten(0, 1), labels, boxes_of, torch.cat(gt_boxes)
        )
        positive = ((labels >= 0) & (labels < self.num_classes)).nonzero().squeeze(1)
        centerness = cat(pred_centerness, dim=1).flatten()[positive]
        target = self.compute_ctrness_targets(anchors, gt_boxes).flatten()[positive]
        loss_ctr = F.binary_cross_entropy_with_logits(centerness, target.to(centerness.dtype), reduction="sum")
        return {
            "loss_fcos_cls": ranking,
            "loss_fcos_loc": localization,
            "loss_fcos_ctr": loss_ctr / max(len(positive), 1),
        }
