from .common.bccd import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.small_retinanet import model  # noqa: F401

train.output_dir = "output/bccd_retinanet_R_18_FPN"
