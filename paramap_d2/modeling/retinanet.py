"""RetinaNet with the Parameterized AP Loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms, cat
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from .box_ap_loss import BoxAPLoss, logit, param_ap_options, warn_of_score_threshold


@META_ARCH_REGISTRY.register()
class ParamAPRetinaNet(RetinaNet):
    """RetinaNet whose classification and box losses are the two terms of one Parameterized AP Loss (head ``dense``).

    The loss ranks all (anchor, class) pairs of the batch against each other and does not care where zero is, so that
    scores are not calibrated: ``MODEL.RETINANET.SCORE_THRESH_TEST`` should be 0.

    Args:
        param_ap: the options of :class:`paramap_d2.modeling.BoxAPLoss`.
        others: as for RetinaNet, whose loss parameters (focal loss, box loss) have no effect.
    """

    @configurable
    def __init__(self, *, param_ap: Mapping[str, Any], **kwargs):
        super().__init__(**kwargs)
        self.box_ap_loss = BoxAPLoss("dense", **param_ap)
        warn_of_score_threshold(type(self).__name__, "MODEL.RETINANET.SCORE_THRESH_TEST", self.test_score_thresh)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "param_ap": param_ap_options(cfg)}

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """As :meth:`RetinaNet.losses`: ``loss_cls`` is the ranking term, ``loss_box_reg`` the localization term."""
        anchor_boxes = Boxes.cat(anchors).tensor  # (R, 4), the same for every image
        deltas = cat(pred_anchor_deltas, dim=1).flatten(0, 1)  # (images · R, 4)

        def boxes_of(index: Tensor) -> Tensor:
            return self.box2box_transform.apply_deltas(deltas[index], anchor_boxes[index % len(anchor_boxes)])

        ranking, localization = self.box_ap_loss(
            cat(pred_logits, dim=1).flatten(0, 1), torch.cat(gt_labels), boxes_of, torch.cat(gt_boxes)
        )
        return {"loss_cls": ranking, "loss_box_reg": localization}

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """As :meth:`RetinaNet.forward_inference`, but detections are thresholded, chosen and suppressed by their
        logits: the loss leaves open where zero is, and far from it sigmoids of different logits are equal."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        results: list[Instances] = []
        for image, image_size in enumerate(images.image_sizes):
            found = self._decode_multi_level_predictions(
                anchors,
                [x[image] for x in logits],
                [x[image] for x in deltas],
                logit(self.test_score_thresh),
                self.test_topk_candidates,
                image_size,
            )
            kept = batched_nms(found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh)
            found = found[kept[: self.max_detections_per_image]]
            found.scores = found.scores.float().sigmoid()
            results.append(found)
        return results


@META_ARCH_REGISTRY.register()
class ParamAPBaselineRetinaNet(RetinaNet):
    """Detectron2's RetinaNet with a weight on its box loss, as the paper's baseline of focal and GIoU loss has it (2).

    Args:
        box_loss_weight: on ``loss_box_reg``.
        others: as for RetinaNet.
    """

    @configurable
    def __init__(self, *, box_loss_weight: float, **kwargs):
        super().__init__(**kwargs)
        self.box_loss_weight = box_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "box_loss_weight": cfg.MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT}

    @torch.jit.unused
    def losses(self, *args, **kwargs) -> dict[str, Tensor]:
        losses = super().losses(*args, **kwargs)
        return {**losses, "loss_box_reg": self.box_loss_weight * losses["loss_box_reg"]}
