from .common.bccd import dataloader, lr_multiplier, optimizer, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_retinanet import model  # noqa: F401

on_lite0(model, dataloader)
dataloader.train.mapper.augmentations[0].short_edge_length = [224]
dataloader.train.mapper.augmentations[0].max_size = 320
dataloader.test.mapper.augmentations[0].short_edge_length = 224
dataloader.test.mapper.augmentations[0].max_size = 320
train.max_iter = 1500
proxy = dict(opts=["train.max_iter=150"])
train.output_dir = "output/bccd_retinanet_lite0_FPN"
