"""Deformable DETR with the Parameterized AP Loss, or with its own: focal, L1 and GIoU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from paramap_d2.errors import UserError

from .box_ap_loss import build_box_ap_losses, param_ap_options

CRITERIA = ("param_ap", "focal")
"""What Deformable DETR can train with: the Parameterized AP Loss (head ``detr``), or focal, L1 and GIoU losses."""


def check_detr_library() -> None:
    """Whether the library that holds Deformable DETR's transformer can be imported.

    Raises:
        UserError: says how to install it.
    """
    try:
        import scipy.optimize  # noqa: F401  the matcher's
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Deformable DETR needs the packages transformers and scipy ({error}): pip install -e '.[detr]'"
        ) from None


def check_options(
    criterion: str, hidden_dim: int, num_heads: int, num_in_features: int, num_feature_levels: int, dec_layers: int
) -> None:
    """What :class:`ParamAPDeformableDETR` cannot be built with.

    Raises:
        ValueError: names the option.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}")
    if hidden_dim < 32 or hidden_dim % 32 or num_heads < 1 or hidden_dim % num_heads:
        raise ValueError(f"hidden_dim must be a multiple of 32 and of num_heads = {num_heads}, not {hidden_dim}")
    if not 0 < num_in_features <= num_feature_levels:
        raise ValueError(
            f"num_feature_levels must be at least {num_in_features}, as many as in_features, not {num_feature_levels}"
        )
    if dec_layers < 2:  # the library cannot be built with one
        raise ValueError(f"dec_layers must be at least 2, not {dec_layers}")


@META_ARCH_REGISTRY.register()
class ParamAPDeformableDETR(nn.Module):
    """Deformable DETR (Zhu et al., ICLR 2021): the transformer and the matcher of Hugging Face's ``transformers``, on a
    Detectron2 backbone, with Detectron2's inputs and outputs.

    Every decoder layer has a loss on its own Hungarian matching. With ``criterion="param_ap"`` that is the
    Parameterized AP Loss (head ``detr``): all (query, class) pairs of the batch are ranked against each other, matched
    pairs are the positives. It does not care where zero is, so that scores are not calibrated and ``score_thresh``
    should stay 0.

    Args:
        backbone: gives the features named in ``in_features``.
        in_features: from the finest to the coarsest.
        num_classes: without a background class.
        pixel_mean, pixel_std: per channel.
        criterion: one of :data:`CRITERIA`.
        param_ap: the options of :func:`paramap_d2.modeling.box_ap_loss.build_box_ap_losses`; needed for ``param_ap``.
        num_feature_levels: feature maps that attention samples from; those beyond ``in_features`` are made by
            convolutions of stride 2.
        num_queries: the most objects an image can have.
        hidden_dim: channels of the transformer, a multiple of 32 and of ``num_heads``.
        num_heads, dim_feedforward, enc_layers, dec_layers, dropout: of the transformer; at least two decoder layers.
        box_refine: each decoder layer starts from the box of the one before it.
        class_weight, l1_weight, giou_weight: of the matching costs, and of the losses of ``focal``.
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
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        criterion: str = "param_ap",
        param_ap: Mapping[str, Any] | None = None,
        num_feature_levels: int = 4,
        num_queries: int = 300,
        hidden_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dropout: float = 0.1,
        box_refine: bool = True,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        score_thresh: float = 0.0,
        max_detections: int = 100,
    ):
        super().__init__()
        check_detr_library()
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

        check_options(criterion, hidden_dim, num_heads, len(in_features), num_feature_levels, dec_layers)
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.max_detections = max_detections
        self.register_buffer("pixel_mean", torch.tensor([*pixel_mean]).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor([*pixel_std]).view(-1, 1, 1), persistent=False)
        self.detr = _build_detr(
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
        self.matcher = DeformableDetrHungarianMatcher(class_weight, l1_weight, giou_weight)
        self.suffixes = [*(f"_{layer}" for layer in range(dec_layers - 1)), ""]
        if criterion == "param_ap":
            if param_ap is None:
                raise ValueError("criterion 'param_ap' needs param_ap, at least {'loss': preset or path}")
            self.box_ap_losses = nn.ModuleList(
                build_box_ap_losses({"detr": f"detr{suffix}"}, param_ap)[0] for suffix in self.suffixes
            )
        else:
            self.focal_loss = DeformableDetrImageLoss(self.matcher, num_classes, 0.25, ["labels", "boxes"])
            self.focal_weights = {
                "loss_cls": ("loss_ce", class_weight),
                "loss_box_reg": ("loss_bbox", l1_weight),
                "loss_giou": ("loss_giou", giou_weight),
            }
        self.criterion = criterion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = {key.lower(): value for key, value in cfg.MODEL.DEFORMABLE_DETR.items()}
        options["score_thresh"] = options.pop("score_thresh_test")
        return {
            **options,
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "param_ap": param_ap_options(cfg),
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
            In training the losses: ``loss_cls`` and ``loss_box_reg`` (``focal``: and ``loss_giou``) of the last
            decoder layer, and of the others with ``_0``, ``_1``, … appended. Else ``{"instances": Instances}`` for
            each image, with ``pred_boxes``, ``scores`` in falling order and ``pred_classes``.

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
            return self.losses(logits, boxes, [x["instances"].to(self.device) for x in batched_inputs])
        results = []
        for image_logits, image_boxes, size, x in zip(
            logits[-1], boxes[-1], images.image_sizes, batched_inputs, strict=True
        ):
            detections = self.detections(image_logits, image_boxes, size)
            height, width = x.get("height", size[0]), x.get("width", size[1])
            results.append({"instances": detector_postprocess(detections, height, width)})
        return results

    def decode(self, images: ImageList) -> tuple[Tensor, Tensor]:
        """What each of the L decoder layers makes of N normalized images.

        Returns:
            logits (L, N, Q, C) and boxes (L, N, Q, 4), (center x, center y, width, height) in units of the image's
            width and height without padding; both in float32.
        """
        mask = torch.zeros_like(images.tensor[:, 0], dtype=torch.long)
        for image_mask, (height, width) in zip(mask, images.image_sizes, strict=True):
            image_mask[:height, :width] = 1
        layers = self.detr(images.tensor, mask, labels=[]).loss_dict  # see _every_layer
        return layers["logits"].float(), layers["boxes"].float()

    def losses(self, logits: Tensor, boxes: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """The losses of all decoder layers, from what :meth:`decode` returns and the ground truth."""
        sizes = boxes.new_tensor([[*x.image_size[::-1]] * 2 for x in instances])  # (N, 4) width, height twice
        targets = [
            {"class_labels": x.gt_classes, "boxes": box_convert(x.gt_boxes.tensor, "xyxy", "cxcywh") / size}
            for x, size in zip(instances, sizes, strict=True)
        ]
        losses = {}
        if self.criterion == "focal":
            layers = [{"logits": s, "pred_boxes": b} for s, b in zip(logits, boxes, strict=True)]
            terms = self.focal_loss({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)
            for suffix in self.suffixes:
                for name, (key, weight) in self.focal_weights.items():
                    losses[name + suffix] = terms[key + suffix] * weight
            return losses
        # In pixels: the smallest areas that box_quality tells from 0 are far below those of boxes.
        corners = box_convert(boxes, "cxcywh", "xyxy") * sizes[:, None]
        gt_corners = [x.gt_boxes.tensor for x in instances]
        for suffix, loss, s, b, c in zip(self.suffixes, self.box_ap_losses, logits, boxes, corners, strict=True):
            labels = torch.full(s.shape[:2], self.num_classes, device=s.device)
            gt_boxes = torch.zeros_like(c)
            for image, (query, match) in enumerate(self.matcher({"logits": s, "pred_boxes": b}, targets)):
                labels[image, query] = targets[image]["class_labels"][match]
                gt_boxes[image, query] = gt_corners[image][match].to(gt_boxes)
            ranking, localization = loss(
                s.flatten(0, 1), labels.flatten(), c.flatten(0, 1).__getitem__, gt_boxes.flatten(0, 1)
            )
            losses[f"loss_cls{suffix}"], losses[f"loss_box_reg{suffix}"] = ranking, localization
        return losses

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


class _MaskedFeatures(nn.Module):
    """A Detectron2 backbone in the place of the library's: its features, each with the padding mask at its size."""

    def __init__(self, backbone: Backbone, in_features: list[str]):
        super().__init__()
        self.backbone = backbone
        self.in_features = in_features

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        features = self.backbone(pixel_values)
        mask = pixel_mask[:, None].float()
        return [
            (x, nn.functional.interpolate(mask, size=x.shape[-2:]).squeeze(1).bool())
            for x in (features[name] for name in self.in_features)
        ]


def _every_layer(logits, labels, device, pred_boxes, config, layer_logits, layer_boxes, **_):
    """In the place of the library's loss function, which alone is given the outputs of all layers: hands them out."""
    return None, {"logits": layer_logits, "boxes": layer_boxes}, None


def _in_float32(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


def _build_detr(backbone: Backbone, in_features: list[str], **options: Any) -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    shapes: dict[str, ShapeSpec] = backbone.output_shape()
    # The library insists on a backbone of its own. It gets the least one with our channels, until ours takes its place.
    stand_in = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[shapes[name].channels for name in in_features],
        depths=[1] * len(in_features),
        out_features=[f"stage{i + 1}" for i in range(len(in_features))],
    )
    detr = DeformableDetrForObjectDetection(
        DeformableDetrConfig(backbone_config=stand_in, disable_custom_kernels=True, **options)
    )
    detr.model.backbone = _MaskedFeatures(backbone, in_features)
    detr.loss_function = _every_layer
    # The library shares one class head between the layers even where each has its own box head.
    if detr.config.with_box_refine:
        detr.class_embed = nn.ModuleList(nn.Linear(head.in_features, head.out_features) for head in detr.class_embed)
    _initialize(detr)
    # Under autocast, half precision would place boxes and reference points to some 1/1000 of the image at best.
    for module in (*detr.bbox_embed, *(detr.model.decoder.bbox_embed or ()), detr.model.reference_points):
        module.register_forward_hook(_in_float32)
    return detr


def _initialize(detr: nn.Module, prior: float = 0.01) -> None:
    """As Deformable DETR's authors do. The library's own values are meant to be overwritten by a checkpoint: with them
    all queries start at the image's centre.

    Args:
        prior: probability that every class starts with.
    """
    model = detr.model
    for layer in (*model.encoder.layers, *model.decoder.layers):
        for name, parameter in layer.named_parameters():
            # Sampling offsets start as a star around the reference point, their weights equal: the library sees to it.
            if parameter.dim() > 1 and "sampling_offsets" not in name and "attention_weights" not in name:
                nn.init.xavier_uniform_(parameter)
    for projection in model.input_proj:
        nn.init.xavier_uniform_(projection[0].weight)
    nn.init.normal_(model.query_position_embeddings.weight)
    for head in detr.class_embed:
        head.reset_parameters()
        nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    for head in detr.bbox_embed:
        for layer in head.layers[:-1]:
            layer.reset_parameters()
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    # The first box is about an eighth of the image wide and high; the layers that follow refine it.
    nn.init.constant_(detr.bbox_embed[0].layers[-1].bias[2:], -2.0)
