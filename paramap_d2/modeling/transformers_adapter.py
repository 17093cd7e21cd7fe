"""Deformable DETR's transformer, matcher and baseline loss: all of Hugging Face's `transformers` that is used."""

from __future__ import annotations

import math
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from paramap_d2.errors import UserError

TESTED = (5, 2), (5, 23)
"""The oldest and the newest minor version of transformers that Deformable DETR was tried with. Its inner parts, which
this file uses, change between them without a word."""


def check_detr_library() -> None:
    """Whether the library that holds Deformable DETR's transformer can be imported, and is one that is known.

    Raises:
        UserError: says how to install it.
    """
    low, high = (".".join(map(str, version)) for version in TESTED)
    mend = "pip install 'paramap_d2[detr]'"
    try:
        import scipy.optimize  # noqa: F401  the matcher's
        import transformers
    except ImportError as error:
        raise UserError(f"Deformable DETR needs the packages transformers and scipy ({error}): {mend}") from None
    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not TESTED[0] <= found <= TESTED[1]:
        raise UserError(f"Deformable DETR needs transformers {low} to {high}, not {transformers.__version__}: {mend}")


def build_matcher(class_weight: float, l1_weight: float, giou_weight: float) -> nn.Module:
    """The Hungarian matching of queries and objects, by the weights of its class, L1 and GIoU costs."""
    check_detr_library()
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

    return DeformableDetrHungarianMatcher(class_weight, l1_weight, giou_weight)


def build_focal_loss(matcher: nn.Module, num_classes: int) -> nn.Module:
    """Deformable DETR's own loss: of a layer's outputs, and with ``auxiliary_outputs`` those of the layers before."""
    from transformers.loss.loss_deformable_detr import DeformableDetrImageLoss

    return DeformableDetrImageLoss(matcher, num_classes, 0.25, ["labels", "boxes"])


def decode(detr: nn.Module, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What each of the L decoder layers makes of N images.

    Args:
        detr: of :func:`build_detr`.
        pixels: (N, 3, H, W).
        mask: (N, H, W), 1 where there is image and 0 where there is padding.

    Returns:
        logits (L, N, Q, C) and boxes (L, N, Q, 4), (center x, center y, width, height) in units of the image's width
        and height without padding; both in float32.
    """
    layers = detr(pixels, mask, labels=[]).loss_dict  # see _every_layer
    return layers["logits"].float(), layers["boxes"].float()


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


def build_detr(backbone: Backbone, in_features: list[str], **options: Any) -> nn.Module:
    """The library's Deformable DETR on a Detectron2 backbone, with its authors' initial weights.

    Args:
        backbone: gives the features named in ``in_features``, from the finest to the coarsest.
        options: of the library's ``DeformableDetrConfig``.
    """
    check_detr_library()
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    shapes: dict[str, ShapeSpec] = backbone.output_shape()
    for name in in_features:
        if name not in shapes:
            raise UserError(f"Deformable DETR's in_features: the backbone gives {', '.join(shapes)}, and no {name}")
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
