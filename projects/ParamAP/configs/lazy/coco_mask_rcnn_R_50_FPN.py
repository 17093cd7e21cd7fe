# Mask R-CNN, ResNet-50 FPN, at Detectron2's 1x schedule: boxes trained by this loss, masks as they are.
from detectron2.model_zoo import get_config

from .common.coco_1x import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.param_ap_rcnn import param_ap, use_param_ap  # noqa: F401

model = use_param_ap(get_config("common/models/mask_rcnn_fpn.py").model)
model.backbone.bottom_up.freeze_at = 2

train.output_dir = "output/coco_mask_rcnn_R_50_FPN"
