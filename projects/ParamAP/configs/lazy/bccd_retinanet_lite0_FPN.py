from paramap_d2.engine.solver import clipped_adamw

from .common.bccd_224 import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.lite0 import on_lite0
from .common.small_retinanet import model  # noqa: F401

on_lite0(model, dataloader)
optimizer._target_ = clipped_adamw
optimizer.clip_value = 0.1
optimizer.lr = 2e-3
lr_multiplier.warmup_iters = 100
proxy.opts.append("lr_multiplier.warmup_iters=20")
train.output_dir = "output/bccd_retinanet_lite0_FPN"
