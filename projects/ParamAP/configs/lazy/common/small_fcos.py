# FCOS on the small RetinaNet's backbone.
from detectron2.config import LazyCall as L
from detectron2.modeling.meta_arch.fcos import FCOSHead

from paramap_d2.modeling import ParamAPFCOS

from .small_retinanet import model as retinanet

model = L(ParamAPFCOS)(
    backbone=retinanet.backbone,
    head=L(FCOSHead)(
        input_shape=retinanet.head.input_shape,
        num_classes="${..num_classes}",
        conv_dims=[64, 64],
        norm="GN",
    ),
    head_in_features=retinanet.head_in_features,
    num_classes=3,
    test_score_thresh=0.0,
    pixel_mean=retinanet.pixel_mean,
    pixel_std=retinanet.pixel_std,
    param_ap=retinanet.param_ap,
)
