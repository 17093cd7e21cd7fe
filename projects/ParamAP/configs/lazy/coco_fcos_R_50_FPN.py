# FCOS, ResNet-50 FPN, at Detectron2's 1x schedule.
from detectron2.model_zoo import get_config

from paramap_d2.modeling import ParamAPFCOS

from .common.coco_1x import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.param_ap import param_ap as options

options.loss = "retinanet-coco"  # searched for RetinaNet, whose head is of the same kind
model = get_config("common/models/fcos.py").model
model._target_ = ParamAPFCOS
model.param_ap = options
model.test_score_thresh = 0.0
model.backbone.bottom_up.freeze_at = 2

dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 0.01
train.output_dir = "output/coco_fcos_R_50_FPN"
