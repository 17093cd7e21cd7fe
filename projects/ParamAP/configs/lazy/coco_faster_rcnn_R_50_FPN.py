# Faster R-CNN, ResNet-50 FPN, on COCO as in the paper, with the functions that it published.
from detectron2.model_zoo import get_config

from .common.coco_ssd512 import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.param_ap_rcnn import param_ap, use_param_ap, without_masks  # noqa: F401
from .common.torchvision_r50 import use_torchvision_r50

model = use_param_ap(without_masks(use_torchvision_r50(get_config("common/models/mask_rcnn_fpn.py").model)))
model.roi_heads.proposal_append_gt = False

optimizer.lr = 0.024
lr_multiplier.scheduler.milestones = [75, 95]
train.output_dir = "output/coco_faster_rcnn_R_50_FPN"
