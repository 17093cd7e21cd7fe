from .common.bccd import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.small_fcos import model  # noqa: F401

train.calibrate_on = ""  # FCOS multiplies its scores by the centerness
train.output_dir = "output/bccd_fcos_R_18_FPN"
