# A RetinaNet that trains from scratch on two CPU cores: ResNet-18 with BN, FPN 64, two head convolutions.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from paramap_d2.modeling import ParamAPRetinaNet

from .param_ap import param_ap

param_ap.loss = "retinanet-coco"
model = L(ParamAPRetinaNet)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res3", "res4", "res5"],
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=64,
        top_block=L(LastLevelP6P7)(in_channels=512, out_channels="${..out_channels}"),
    ),
    head=L(RetinaNetHead)(
        input_shape=[ShapeSpec(channels=64)] * 5,
        num_classes="${..num_classes}",
        num_anchors=9,
        conv_dims=[64, 64],
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[
            [16.0, 20.2, 25.4],
            [32.0, 40.3, 50.8],
            [64.0, 80.6, 101.6],
            [128.0, 161.3, 203.2],
            [256.0, 322.5, 406.4],
        ],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=3,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    # A ranking loss leaves open where zero is: no score is low in itself. Of calibrated weights 0.005 costs about
    # 0.1 AP and spares suppression most boxes, 0.05 up to a point of AP (docs/scores.md).
    test_score_thresh=0.0,
    pixel_mean=[127.5, 127.5, 127.5],
    pixel_std=[64.0, 64.0, 64.0],
    param_ap=param_ap,
)
