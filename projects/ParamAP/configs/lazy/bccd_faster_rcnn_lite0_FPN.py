from .common.bccd_224 import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_faster_rcnn import model, param_ap  # noqa: F401

on_lite0(model, dataloader)
train.output_dir = "output/bccd_faster_rcnn_lite0_FPN"
