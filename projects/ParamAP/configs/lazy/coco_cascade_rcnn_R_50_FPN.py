# Cascade R-CNN, ResNet-50 FPN, at Detectron2's 1x schedule: each stage with a loss of its own, all of head roi.
from detectron2.model_zoo import get_config

from .common.coco_1x import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.param_ap_rcnn import param_ap, use_param_ap, without_masks  # noqa: F401

model = use_param_ap(without_masks(get_config("common/models/cascade_rcnn.py").model))
model.backbone.bottom_up.freeze_at = 2

dataloader.train.mapper.use_instance_mask = False
train.output_dir = "output/coco_cascade_rcnn_R_50_FPN"
