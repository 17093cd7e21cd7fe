# A Faster R-CNN that trains from scratch on two CPU cores: ResNet-18 with BN, FPN 64, one 256-wide box layer.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from paramap_d2.modeling import ParamAPFastRCNNOutputLayers, ParamAPROIHeads, ParamAPRPN

from .param_ap import param_ap

param_ap.loss = "fasterrcnn-coco"  # both heads' options: model refers to them as ${param_ap}
model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res2", "res3", "res4", "res5"],
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=64,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(ParamAPRPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=64, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[16], [32], [64], [128], [256]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
        batch_size_per_image=256,  # without effect: all anchors are trained on
        positive_fraction=0.5,
        pre_nms_topk=(500, 500),
        post_nms_topk=(200, 200),
        nms_thresh=0.7,
        param_ap="${param_ap}",
    ),
    roi_heads=L(ParamAPROIHeads)(
        num_classes=3,
        batch_size_per_image=512,  # without effect: all proposals are trained on
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=64, height=7, width=7),
            conv_dims=[],
            fc_dims=[256],
        ),
        box_predictor=L(ParamAPFastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=256),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            # A ranking loss leaves open where zero is: no score is low in itself. Of calibrated weights 0.005 costs
            # about 0.1 AP and spares suppression most boxes, 0.05 up to a point of AP (docs/scores.md).
            test_score_thresh=0.0,
            param_ap="${param_ap}",
        ),
    ),
    pixel_mean=[127.5, 127.5, 127.5],
    pixel_std=[64.0, 64.0, 64.0],
    input_format="BGR",
)
