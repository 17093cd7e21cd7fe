"""Predictions of a trained folder, copied to wherever they are wanted: its config.yaml and model_final.pth suffice.

    python draw_and_serve.py FOLDER IMAGE OUTPUT.png [COUNT]

Scores of this loss order the detections of all images together, but are no probabilities: draw the best COUNT, or a
checkpoint that `paramap calibrate` has calibrated above 0.5.
"""

import contextlib
import sys

import cv2
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer

import paramap_d2.data  # noqa: F401  registers data sets, for the names of their classes
from paramap_d2.config import add_paramap_config


def predictor(folder, weights="model_final.pth"):
    """Takes a BGR image (H, W, 3) and returns Detectron2's ``{"instances": …}``."""
    cfg = get_cfg()
    add_paramap_config(cfg)
    cfg.merge_from_file(f"{folder}/config.yaml")
    cfg.MODEL.WEIGHTS = f"{folder}/{weights}"
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # not that of the training
    return DefaultPredictor(cfg)


def best(instances, count):
    """Those of highest score; Detectron2 gives them in falling order."""
    return instances[:count].to("cpu")


def serve(predict, image, count=10):
    """Plain values, ready for JSON."""
    found = best(predict(image)["instances"], count)
    rows = zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist(), strict=True)
    return [{"box": box, "score": score, "class": number} for box, score, number in rows]


def class_names(dataset_name):
    """For drawing. A COCO file of one's own is asked for its names; where it is not, classes are drawn as numbers."""
    names = MetadataCatalog.get(dataset_name)
    if dataset_name in DatasetCatalog and not names.get("thing_classes"):
        with contextlib.suppress(OSError, ValueError):
            DatasetCatalog.get(dataset_name)
    return names


def main(folder, image_file, output, count=10):
    predict, image = predictor(folder), cv2.imread(image_file)
    found = best(predict(image)["instances"], int(count))
    drawn = Visualizer(image[:, :, ::-1], class_names(predict.cfg.DATASETS.TRAIN[0])).draw_instance_predictions(found)
    cv2.imwrite(output, drawn.get_image()[:, :, ::-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
