from .common.shapes import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.small_faster_rcnn import model, param_ap  # noqa: F401

train.output_dir = "output/shapes_faster_rcnn_R_18_FPN"
