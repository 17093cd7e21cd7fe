from .common.bccd_224 import dataloader, lr_multiplier, proxy, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_deformable_detr import model, optimizer  # noqa: F401

on_lite0(model, dataloader)
train.output_dir = "output/bccd_deformable_detr_lite0"
