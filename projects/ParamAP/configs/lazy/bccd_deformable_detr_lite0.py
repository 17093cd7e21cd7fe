from .common.bccd_224 import dataloader, lr_multiplier, proxy, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_deformable_detr import model, optimizer

on_lite0(model, dataloader)
optimizer.lr = 2e-3
train.output_dir = "output/bccd_deformable_detr_lite0"
