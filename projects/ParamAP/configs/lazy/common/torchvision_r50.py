# ResNet-50 of torchvision's weights in the place of Detectron2's default, of MSRA's: RGB, strides in the 3×3 layers.
from .coco_ssd512 import pixels


def use_torchvision_r50(model):
    model.backbone.bottom_up.stages.stride_in_1x1 = False
    model.backbone.bottom_up.freeze_at = 2
    model.pixel_mean = pixels["mean"]
    model.pixel_std = pixels["std"]
    model.input_format = "RGB"
    return model
