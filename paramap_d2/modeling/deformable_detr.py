"""Deformable DETR as a Detectron2 detector, trained by a criterion of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from .box_ap_loss import box_ap_losses, warn_of_score_threshold
from .detr_criterion import build_criterion
from .transformers_adapter import build_detr, decode


def check_options(
    hidden_dim: int,
    num_heads: int,
    num_in_features: int,
    num_feature_levels: int,
    dec_layers: int,
    num_queries: int,
    dropout: float,
) -> None:
    """What :class:`ParamAPDeformableDETR` cannot be built with.

    Raises:
        ValueError: names the option.
    """
    if hidden_dim < 32 or hidden_dim % 32 or num_heads < 1 or hidden_dim % num_heads:
        raise ValueError(f"hidden_dim must be a multiple of 32 and of num_heads = {num_heads}, not {hidden_dim}")
    if not 0 < num_in_features <= num_feature_levels:
        raise ValueError(
            f"num_feature_levels must be at least {num_in_features}, as many as in_features, not {num_feature_levels}"
        )
    if dec_layers < 2:  # the library cannot be built with one
        raise ValueError(f"dec_layers must be at least 2, not {dec_layers}")
    if num_queries < 1:
        raise ValueError(f"num_queries must be at least 1, not {num_queries}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie between 0 and 1, not {dropout:g}")


@META_ARCH_REGISTRY.register()
class ParamAPDeformableDETR(nn.Module):
    """Deformable DETR (Zhu et al., ICLR 2021): the transformer of Hugging Face's ``transformers``, on a Detectron2
    backbone, with Detectron2's inputs and outputs.

    Args:
        backbone: gives the features named in ``in_features``.
        in_features: from the finest to the coarsest.
        num_classes: without a background class.
        criterion: gives the losses of all decoder layers, such as
            :class:`~paramap_d2.modeling.detr_criterion.ParamAPCriterion`; called as that is.
        pixel_mean, pixel_std: per channel.
        num_feature_levels: feature maps that attention samples from; those beyond ``in_features`` are made by
            convolutions of stride 2.
        num_queries: the most objects an image can have.
        hidden_dim: channels of the transformer, a multiple of 32 and of ``num_heads``.
        num_heads, dim_feedforward, enc_layers, dec_layers, dropout: of the transformer; at least two decoder layers.
        box_refine: each decoder layer starts from the box of the one before it.
        score_thresh: detections of lower score are dropped.
        max_detections: kept per image.

    Raises:
        UserError: the library is not installed.
        ValueError: an option is out of its range.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        num_classes: int,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_feature_levels: int = 4,
        num_queries: int = 300,
        hidden_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dropout: float = 0.1,
        box_refine: bool = True,
        score_thresh: float = 0.0,
        max_detections: int = 100,
    ):
        super().__init__()
        check_options(hidden_dim, num_heads, len(in_features), num_feature_levels, dec_layers, num_queries, dropout)
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.max_detections = max_detections
        self.register_buffer("pixel_mean", torch.tensor([*pixel_mean]).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor([*pixel_std]).view(-1, 1, 1), persistent=False)
        self.detr = build_detr(
            backbone,
            list(in_features),
            num_labels=num_classes,
            num_feature_levels=num_feature_levels,
            num_queries=num_queries,
            d_model=hidden_dim,
            encoder_attention_heads=num_heads,
            decoder_attention_heads=num_heads,
            encoder_ffn_dim=dim_feedforward,
            decoder_ffn_dim=dim_feedforward,
            encoder_layers=enc_layers,
            decoder_layers=dec_layers,
            dropout=float(dropout),
            with_box_refine=box_refine,
        )
        self.criterion = criterion
        if box_ap_losses(criterion):
            warn_of_score_threshold(type(self).__name__, "MODEL.DEFORMABLE_DETR.SCORE_THRESH_TEST", score_thresh)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = {key.lower(): value for key, value in cfg.MODEL.DEFORMABLE_DETR.items()}
        options["score_thresh"] = options.pop("score_thresh_test")
        for of_criterion in ("class_weight", "l1_weight", "giou_weight"):
            del options[of_criterion]
        return {
            **options,
            "backbone": build_backbone(cfg),
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: Detectron2's: ``image`` (C, H, W), in training ``instances`` with ``gt_boxes`` and
                ``gt_classes``, and for detections ``height`` and ``width`` of the image they are wanted for.

        Returns:
            In training the criterion's losses. Else ``{"instances": Instances}`` for each image, with ``pred_boxes``,
            ``scores`` in falling order and ``pred_classes``.

        Raises:
            FloatingPointError: a predicted box is not finite: training has diverged.
        """
        images = ImageList.from_tensors(
            [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs],
            self.detr.model.backbone.backbone.size_divisibility,
            padding_constraints=self.detr.model.backbone.backbone.padding_constraints,
        )
        logits, boxes = self.decode(images)
        if not boxes.isfinite().all():
            raise FloatingPointError("Deformable DETR predicts boxes that are not finite: training has diverged")
        if self.training:
            return self.criterion(logits, boxes, [x["instances"].to(self.device) for x in batched_inputs])
        results = []
        for image_logits, image_boxes, size, x in zip(
            logits[-1], boxes[-1], images.image_sizes, batched_inputs, strict=True
        ):
            detections = self.detections(image_logits, image_boxes, size)
            height, width = x.get("height", size[0]), x.get("width", size[1])
            results.append({"instances": detector_postprocess(detections, height, width)})
        return results

    def decode(self, images: ImageList) -> tuple[Tensor, Tensor]:
        """What each decoder layer makes of normalized images, see
        :func:`paramap_d2.modeling.transformers_adapter.decode`."""
        mask = torch.zeros_like(images.tensor[:, 0], dtype=torch.long)
        for image_mask, (height, width) in zip(mask, images.image_sizes, strict=True):
            image_mask[:height, :width] = 1
        return decode(self.detr, images.tensor, mask)

    def detections(self, logits: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """The (query, class) pairs of highest score: Deformable DETR needs no suppression of overlaps.

        Args:
            logits: (Q, C).
            boxes: (Q, 4) as :meth:`decode` gives them.
            image_size: (height, width).
        """
        # Ordered by logit: the ranking loss leaves open where zero is, and far from it sigmoids are equal.
        top, index = logits.flatten().topk(min(self.max_detections, logits.numel()))
        scores = top.sigmoid()
        kept = scores >= self.score_thresh
        index, height, width = index[kept], *image_size
        corners = box_convert(boxes[index // self.num_classes], "cxcywh", "xyxy")
        return Instances(
            image_size,
            pred_boxes=Boxes(corners * corners.new_tensor([width, height, width, height])),
            scores=scores[kept],
            pred_classes=index % self.num_classes,
        )
