from .common.shapes import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.small_retinanet import model  # noqa: F401

train.output_dir = "output/shapes_retinanet_R_18_FPN"
proxy.opts = ["dataloader.train.total_batch_size=4", "train.max_iter=80"]
