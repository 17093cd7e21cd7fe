from .common.bccd import dataloader, lr_multiplier, train  # noqa: F401
from .common.small_deformable_detr import model, optimizer  # noqa: F401

train.max_iter = 400
train.output_dir = "output/bccd_deformable_detr_R_18"
proxy = dict(opts=["train.max_iter=100"])
