"""Small detectors of every kind, a handful of images of `shapes`, and what the tests do with them."""

import contextlib
import copy
import io
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import paramap_d2.data  # noqa: F401
import paramap_d2.modeling  # noqa: F401
from paramap_d2.config import read_config

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"

CASCADE = [
    "MODEL.ROI_HEADS.NAME",
    "ParamAPCascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "True",
]
MASK = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NUM_CONV"]
MASK += ["1", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32"]

DETECTORS = {
    "retinanet": ("shapes_retinanet_R_18_FPN.yaml", []),
    "faster_rcnn": ("shapes_faster_rcnn_R_18_FPN.yaml", []),
    "mask_rcnn": ("shapes_faster_rcnn_R_18_FPN.yaml", MASK),
    "cascade_rcnn": ("shapes_faster_rcnn_R_18_FPN.yaml", CASCADE),
    "fcos": ("shapes_retinanet_R_18_FPN.yaml", []),
}


def config(detector, *opts):
    file, more = DETECTORS[detector]
    cfg = read_config(CONFIGS / file, [*more, *opts])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def build(detector, *opts):
    """The detector with weights that depend on nothing but its kind."""
    cfg = config(detector, *opts)
    seed_all_rng(1)
    if detector == "fcos":
        return fcos(cfg)
    return build_model(cfg)


def fcos(cfg):
    from detectron2.modeling.backbone import build_backbone
    from detectron2.modeling.meta_arch.fcos import FCOSHead

    from paramap_d2.modeling import ParamAPFCOS
    from paramap_d2.modeling.box_ap_loss import param_ap_options

    backbone = build_backbone(cfg)
    shapes = [backbone.output_shape()[f] for f in ("p3", "p4", "p5", "p6", "p7")]
    classes = cfg.MODEL.RETINANET.NUM_CLASSES
    return ParamAPFCOS(
        backbone=backbone,
        head=FCOSHead(input_shape=shapes, num_classes=classes, conv_dims=[64, 64], norm="GN"),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=classes,
        test_score_thresh=0.0,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        param_ap=param_ap_options(cfg),
    )


def batch(detector="retinanet", count=4):
    """The first images of `shapes_train`, unchanged."""
    cfg = config(detector)
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    return [mapper(copy.deepcopy(item)) for item in DatasetCatalog.get("shapes_train")[:count]]


def without_objects(item):
    item = dict(item)
    item["instances"] = item["instances"][torch.zeros(len(item["instances"]), dtype=torch.bool)]
    return item


def losses(model, inputs):
    model.train()
    with EventStorage() as storage:
        return model(inputs), storage


def overfit(model, inputs, iterations, lr=1e-3):
    seed_all_rng(2)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    with EventStorage():
        for _ in range(iterations):
            loss = sum(model(inputs).values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()


def ap50(model, inputs):
    """COCO's AP at IoU 0.5, from 0 to 1, on the images the model was trained with."""
    truth = {"info": {}, "images": [], "annotations": [], "categories": [{"id": i} for i in range(3)]}
    found = []
    model.eval()
    with torch.no_grad():
        outputs = model([{"image": item["image"]} for item in inputs])
    for image, (item, output) in enumerate(zip(inputs, outputs, strict=True)):
        truth["images"].append({"id": image})
        for instances, entries in ((item["instances"], truth["annotations"]), (output["instances"], found)):
            boxes = (instances.gt_boxes if entries is not found else instances.pred_boxes).tensor
            classes = instances.gt_classes if entries is not found else instances.pred_classes
            scores = instances.scores.tolist() if entries is found else [1.0] * len(instances)
            for (x0, y0, x1, y1), category, score in zip(boxes.tolist(), classes.tolist(), scores, strict=True):
                size = x1 - x0, y1 - y0
                entries.append(
                    {
                        "id": len(entries) + 1,
                        "image_id": image,
                        "category_id": category,
                        "bbox": [x0, y0, *size],
                        "area": size[0] * size[1],
                        "iscrowd": 0,
                        "score": score,
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]
