from .common.bccd_224 import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_retinanet import model  # noqa: F401

on_lite0(model, dataloader)
train.output_dir = "output/bccd_retinanet_lite0_FPN"
