from .common.lite0 import on_lite0
from .common.shapes import dataloader, lr_multiplier, optimizer, train  # noqa: F401
from .common.small_retinanet import model  # noqa: F401

on_lite0(model, dataloader)
train.max_iter = 300
proxy = dict(opts=["train.max_iter=60"])
train.output_dir = "output/shapes_retinanet_lite0_FPN"
