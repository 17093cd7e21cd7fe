"""A small Deformable DETR on a Detectron2 backbone, three images for it, and what its tests do with them."""

import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng

from paramap_d2.modeling import FocalCriterion, ParamAPCriterion, ParamAPDeformableDETR


def backbone(norm="BN"):
    stages = [
        ResNet.make_stage(BasicBlock, 1, stride_per_block=[stride], in_channels=before, out_channels=after, norm=norm)
        for before, after, stride in ((16, 32, 1), (32, 64, 2), (64, 128, 2))
    ]
    return ResNet(BasicStem(3, 16, norm=norm), stages, out_features=["res2", "res3", "res4"])


OPTIONS = {
    "in_features": ["res3", "res4"],
    "num_classes": 3,
    "pixel_mean": [127.5] * 3,
    "pixel_std": [64.0] * 3,
    "num_feature_levels": 3,
    "num_queries": 20,
    "hidden_dim": 64,
    "num_heads": 4,
    "dim_feedforward": 64,
    "enc_layers": 1,
    "dec_layers": 2,
    "dropout": 0.0,
}


def detector(seed=1, criterion="param_ap", param_ap=None, **options):
    """A small Deformable DETR; its criterion is a module, or named as in YAML configs."""
    if criterion == "param_ap":
        criterion = ParamAPCriterion(3, param_ap or {"loss": "square"})
    elif criterion == "focal":
        criterion = FocalCriterion(3)
    seed_all_rng(seed)
    return ParamAPDeformableDETR(**{"backbone": backbone(), "criterion": criterion, **OPTIONS, **options})


def spread(model, seed=3, noise=0.05):
    """Move all weights from where they start, so that no two queries or layers predict the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model


def image(height, width, boxes, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "instances": instances, "height": height, "width": width}


def images():
    """Two sizes, so that there is padding on both; three objects, one and none."""
    return [
        image(64, 48, [[2, 3, 20, 30], [10, 10, 44, 60], [30, 5, 40, 12]], [0, 2, 2], seed=1),
        image(40, 80, [[20, 8, 70, 35]], [1], seed=2),
        image(48, 48, [], [], seed=3),
    ]


def detections(model, inputs):
    model.eval()
    with torch.no_grad():
        return [x["instances"] for x in model(inputs)]
