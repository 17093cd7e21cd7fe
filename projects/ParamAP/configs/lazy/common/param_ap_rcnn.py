# Gives an R-CNN of Detectron2's model zoo the loss in RPN and ROI heads, which refer to the top level's param_ap.
from paramap_d2.modeling import (
    ParamAPCascadeROIHeads,
    ParamAPFastRCNNOutputLayers,
    ParamAPROIHeads,
    ParamAPRPN,
)

from .param_ap import param_ap

param_ap.loss = "fasterrcnn-coco"


def use_param_ap(model):
    model.proposal_generator._target_ = ParamAPRPN
    model.proposal_generator.box2box_transform.weights = [10.0, 10.0, 5.0, 5.0]
    model.proposal_generator.param_ap = "${param_ap}"
    cascade = "box_predictors" in model.roi_heads
    model.roi_heads._target_ = ParamAPCascadeROIHeads if cascade else ParamAPROIHeads
    for predictor in model.roi_heads.box_predictors if cascade else [model.roi_heads.box_predictor]:
        predictor._target_ = ParamAPFastRCNNOutputLayers
        predictor.test_score_thresh = 0.0
        predictor.param_ap = "${param_ap}"
    return model


def without_masks(model):
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        del model.roi_heads[part]
    return model
