# RetinaNet, ResNet-50 FPN, on COCO as in the paper, with the functions that it published.
from detectron2.model_zoo import get_config

from paramap_d2.modeling import ParamAPRetinaNet

from .common.coco_ssd512 import dataloader, lr_multiplier, optimizer, proxy, train  # noqa: F401
from .common.param_ap import param_ap as options
from .common.torchvision_r50 import use_torchvision_r50

options.loss = "retinanet-coco"
model = use_torchvision_r50(get_config("common/models/retinanet.py").model)
model._target_ = ParamAPRetinaNet
model.param_ap = options
model.anchor_generator.sizes = [[x, x * 2**0.5] for x in (32, 64, 128, 256, 512)]
model.head.num_anchors = 6
model.box2box_transform.weights = [10.0, 10.0, 5.0, 5.0]
model.test_score_thresh = 0.0
model.test_nms_thresh = 0.6

optimizer.lr = 0.016
train.output_dir = "output/coco_retinanet_R_50_FPN"
