"""ROI heads with the Parameterized AP Loss: Faster R-CNN, the boxes of Mask R-CNN, and Cascade R-CNN."""

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor

from .box_ap_loss import BoxAPLoss, logit, param_ap_options, warn_of_score_threshold


class ParamAPFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Box predictor with one score a class and no background, trained by one Parameterized AP Loss (head ``roi``).

    The stock classification layer is kept, its background row unused, so that stock checkpoints load. Scores are
    sigmoids; the loss does not care where zero is, so they are not calibrated, and ``SCORE_THRESH_TEST`` should be 0.

    Args:
        param_ap: the options of :class:`paramap_d2.modeling.BoxAPLoss`.
        others: as for FastRCNNOutputLayers; its choices of stock losses have no effect, ``loss_weight`` has.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, param_ap: Mapping[str, Any], **kwargs):
        super().__init__(input_shape, **kwargs)
        self.box_ap_loss = BoxAPLoss("roi", **param_ap)
        warn_of_score_threshold(type(self).__name__, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", self.test_score_thresh)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "param_ap": param_ap_options(cfg)}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`FastRCNNOutputLayers.forward`, with (R, K) scores."""
        x = x.flatten(1)  # TorchScript knows no super().forward
        return self.cls_score(x)[:, : self.num_classes], self.bbox_pred(x)

    @torch.jit.unused
    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """As :meth:`FastRCNNOutputLayers.losses`: ``loss_cls`` is the ranking term, ``loss_box_reg`` the localization
        term."""
        scores, deltas = predictions
        labels = torch.cat([p.gt_classes for p in proposals])
        proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # Proposals of an image without objects have no gt_boxes, and no positive to read them for.
        gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])

        def boxes_of(index: Tensor) -> Tensor:
            of_class = deltas.view(len(deltas), deltas.shape[1] // 4, 4)[index]
            if of_class.shape[1] > 1:  # a box for each class
                of_class = of_class[torch.arange(len(index), device=index.device), labels[index], None]
            return self.box2box_transform.apply_deltas(of_class.squeeze(1), proposal_boxes[index])

        ranking, localization = self.box_ap_loss(scores, labels, boxes_of, gt_boxes)
        losses = {"loss_cls": ranking, "loss_box_reg": localization}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """As :meth:`FastRCNNOutputLayers.inference`, but detections are thresholded and suppressed by their logits: the
        loss leaves open where zero is, and far from it sigmoids of different logits are equal."""
        scores = torch.nn.functional.pad(predictions[0], [0, 1])  # a column for the background, which is dropped
        found, kept = fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            list(scores.split([len(p) for p in proposals])),
            [p.image_size for p in proposals],
            logit(self.test_score_thresh),
            self.test_nms_thresh,
            self.test_topk_per_image,
        )
        for instances in found:
            instances.scores = instances.scores.float().sigmoid()
        return found, kept

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """(R, K + 1) for each image, as stock inference expects: sigmoids, and 0 for the background. Cascade R-CNN's
        inference, which takes means of them, reads no other."""
        probs = predictions[0].sigmoid()
        probs = torch.cat([probs, torch.zeros_like(probs[:, :1])], dim=1)
        return list(probs.split([len(p) for p in proposals]))


def _named(name: str, method: FunctionType) -> FunctionType:
    """The same method under another name: TorchScript, which knows no super(), compiles it beside its override."""
    named = FunctionType(method.__code__, method.__globals__, name, method.__defaults__, method.__closure__)
    named.__annotations__ = method.__annotations__
    return named


class _AllProposals:
    """Trains the box heads on all proposals of an image instead of a sample of them."""

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        labels = torch.full_like(matched_idxs, self.num_classes)
        if len(gt_classes):
            labels = torch.where(matched_labels == 1, gt_classes[matched_idxs], labels)
        kept = (matched_labels != -1).nonzero().squeeze(1)
        return kept, labels[kept]

    # No return types: TorchScript does not take Any for what the stock methods give.
    _every_mask = _named("_every_mask", StandardROIHeads._forward_mask)
    _every_keypoint = _named("_every_keypoint", StandardROIHeads._forward_keypoint)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        if self.training and self.mask_on:
            instances = self._sampled(instances)
        return self._every_mask(features, instances)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        if self.training and self.keypoint_on:
            instances = self._sampled(instances)
        return self._every_keypoint(features, instances)

    @torch.jit.unused
    def _sampled(self, instances: list[Instances]) -> list[Instances]:
        """What mask and keypoint heads are trained on: no more proposals with an object than stock sampling leaves,
        drawn anew. Theirs is no ranking, and its cost grows with each."""
        most = int(self.batch_size_per_image * self.positive_fraction)
        sampled = []
        for x in instances:
            objects = ((x.gt_classes >= 0) & (x.gt_classes < self.num_classes)).nonzero().squeeze(1)
            few = objects[torch.randperm(len(objects), device=objects.device)[:most]]
            sampled.append(x[few] if len(objects) > most else x)
        return sampled


def _instead_of(
    stock: FastRCNNOutputLayers, cfg: CfgNode, input_shape: ShapeSpec, **kwargs: Any
) -> ParamAPFastRCNNOutputLayers:
    """Our predictor with the stock one's initial weights and without random numbers of its own: a seed then draws the
    same detector as from a LazyConfig, which makes no stock predictor first."""
    with torch.random.fork_rng(devices=[]):
        ours = ParamAPFastRCNNOutputLayers(cfg, input_shape, **kwargs)
    ours.load_state_dict(stock.state_dict())
    return ours


@ROI_HEADS_REGISTRY.register()
class ParamAPROIHeads(_AllProposals, StandardROIHeads):
    """StandardROIHeads whose box predictor is :class:`ParamAPFastRCNNOutputLayers`, on all proposals."""

    # TorchScript leaves out branches of what is constant, and does not look for these in the parent class.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        made = super()._init_box_head(cfg, input_shape)
        return {**made, "box_predictor": _instead_of(made["box_predictor"], cfg, made["box_head"].output_shape)}


@ROI_HEADS_REGISTRY.register()
class ParamAPCascadeROIHeads(_AllProposals, CascadeROIHeads):
    """CascadeROIHeads with one Parameterized AP Loss a stage, each of the functions of head ``roi``."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        made = super()._init_box_head(cfg, input_shape)
        predictors = [
            _instead_of(stock, cfg, head.output_shape, box2box_transform=stock.box2box_transform)
            for head, stock in zip(made["box_heads"], made["box_predictors"], strict=True)
        ]
        return {**made, "box_predictors": predictors}
