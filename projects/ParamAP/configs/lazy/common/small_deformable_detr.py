# A Deformable DETR that trains from scratch on two CPU cores: ResNet-18 with BN, 1 encoder and 3 decoder layers.
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.solver.build import get_default_optimizer_params

from paramap_d2.engine.solver import clipped_adamw, lr_factors
from paramap_d2.modeling import ParamAPCriterion, ParamAPDeformableDETR

from .param_ap import param_ap

# No functions searched for this detector are published: search them with tools/evolve.py.
param_ap.loss = "square"
model = L(ParamAPDeformableDETR)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
        out_features=["res3", "res4", "res5"],
    ),
    in_features="${.backbone.out_features}",
    num_classes=3,
    pixel_mean=[127.5, 127.5, 127.5],
    pixel_std=[64.0, 64.0, 64.0],
    # The baseline, focal + L1 + GIoU: L(FocalCriterion)(num_classes="${..num_classes}").
    criterion=L(ParamAPCriterion)(num_classes="${..num_classes}", param_ap=param_ap),
    num_feature_levels=3,
    num_queries=60,
    hidden_dim=64,
    num_heads=4,
    dim_feedforward=128,
    enc_layers=1,
    dec_layers=3,
    dropout=0.0,
)

optimizer = L(clipped_adamw)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        lr_factor_func=L(lr_factors)(factors=[["sampling_offsets", 0.1], ["reference_points", 0.1]]),
    ),
    lr=1e-3,
    weight_decay=1e-4,
    clip_value=0.1,
)
