"""Detectron2 models with the Parameterized AP Loss. Importing this registers them."""

from .box_ap_loss import BoxAPLoss
from .deformable_detr import ParamAPDeformableDETR
from .detr_criterion import FocalCriterion, ParamAPCriterion
from .fcos import ParamAPFCOS
from .retinanet import ParamAPBaselineRetinaNet, ParamAPRetinaNet
from .roi_heads import ParamAPCascadeROIHeads, ParamAPFastRCNNOutputLayers, ParamAPROIHeads
from .rpn import ParamAPRPN
from .timm_backbone import TimmBackbone

__all__ = [
    "BoxAPLoss",
    "FocalCriterion",
    "ParamAPBaselineRetinaNet",
    "ParamAPCascadeROIHeads",
    "ParamAPCriterion",
    "ParamAPDeformableDETR",
    "ParamAPFCOS",
    "ParamAPFastRCNNOutputLayers",
    "ParamAPROIHeads",
    "ParamAPRPN",
    "ParamAPRetinaNet",
    "TimmBackbone",
]
