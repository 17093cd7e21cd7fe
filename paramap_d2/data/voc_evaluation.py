"""Pascal VOC's Average Precision."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_ap
from detectron2.utils import comm

from .catalog import DatasetError
from .voc import class_index, is_empty, list_images, read_annotations

__all__ = ["VOCEvaluator"]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt


class VOCEvaluator(DatasetEvaluator):
    """VOC's AP as its development kit computes it, under `voc`.

    As Detectron2's own evaluator, but: it reads what labelling tools write (see :mod:`~paramap_d2.data.voc`); boxes
    without width or height are no objects; a class of which the data has no object is left out of the mean, where
    Detectron2 counts 0; scores and boxes are as the detector gives them, where Detectron2 rounds scores to 0.001.
    Objects marked difficult are neither found nor missed.
    """

    def __init__(self, dataset_name: str, distributed: bool = True):
        self._name = dataset_name
        self._distributed = distributed
        metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(metadata.thing_classes)
        self._is_2007 = metadata.get("year", 2012) == 2007
        # (class, image) -> boxes (n, 4) and difficult (n,)
        self._objects: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        self._images = set()
        for image in list_images(metadata.dirname, metadata.split):
            self._images.add(image.name)
            of_class = defaultdict(list)
            for item in read_annotations(image).objects:
                if not is_empty(item.box):
                    of_class[class_index(item.label, self._classes, image)].append(item)
            for label, items in of_class.items():
                boxes = np.array([item.box for item in items], dtype=float)
                self._objects[label, image.name] = boxes, np.array([item.difficult for item in items])
        self.reset()

    def reset(self) -> None:
        # class -> [(image, box (4,), score)]
        self._found: dict[int, list[tuple[str, np.ndarray, float]]] = defaultdict(list)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            image = str(given["image_id"])
            if image not in self._images:
                raise DatasetError(f"the detector was given image {image!r}, which data set '{self._name}' lacks")
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.double().numpy() + (1, 1, 0, 0)  # VOC counts pixels from 1
            for box, score, label in zip(
                boxes, instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
            ):
                self._found[label].append((image, box, score))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Returns {"voc": {"AP", "AP50", "AP75"}} in percent on rank 0, None on the others. NaN without objects."""
        gathered = comm.gather(self._found, dst=0) if self._distributed else [self._found]
        if self._distributed and not comm.is_main_process():
            return None
        figures, absent = [], []
        for label, name in enumerate(self._classes):
            found = list(itertools.chain.from_iterable(of_rank.get(label, ()) for of_rank in gathered))
            objects = {image: value for (c, image), value in self._objects.items() if c == label}
            if any((~difficult).any() for _, difficult in objects.values()):
                figures.append(self._average_precisions(found, objects))
            else:
                absent.append(name)
        if absent:
            logger.warning("data set '%s' has no %s: left out of VOC's mean", self._name, ", ".join(absent))
        mean = 100 * np.mean(figures, axis=0) if figures else np.full(len(THRESHOLDS), np.nan)
        of = dict(zip(THRESHOLDS, mean.tolist(), strict=True))
        return {"voc": {"AP": float(mean.mean()), "AP50": of[0.5], "AP75": of[0.75]}}

    def _average_precisions(
        self, found: list[tuple[str, np.ndarray, float]], objects: dict[str, tuple[np.ndarray, np.ndarray]]
    ) -> list[float]:
        """Of one class, at each of the thresholds."""
        found = sorted(found, key=lambda one: -one[2])
        number = {key: n for n, key in enumerate((i, j) for i in objects for j in range(len(objects[i][0])))}
        count = sum(int((~difficult).sum()) for _, difficult in objects.values())
        overlap, which, ignored = np.zeros(len(found)), np.zeros(len(found), int), np.zeros(len(found), bool)
        for d, (image, box, _) in enumerate(found):
            if image in objects:
                boxes, difficult = objects[image]
                overlaps = _iou(box, boxes)
                best = int(np.argmax(overlaps))
                overlap[d], which[d], ignored[d] = overlaps[best], number[image, best], difficult[best]
        average = []
        for threshold in THRESHOLDS:
            matched = overlap > threshold
            true = np.zeros(len(found), bool)
            candidates = np.flatnonzero(matched & ~ignored)
            true[candidates[np.unique(which[candidates], return_index=True)[1]]] = True  # the first to find an object
            false = ~true & ~(matched & ignored)
            true, false = np.cumsum(true), np.cumsum(false)
            precision = true / np.maximum(true + false, np.finfo(float).eps)
            average.append(float(voc_ap(true / count, precision, self._is_2007)))
        return average


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) of a box (4,) and boxes (n, 4) whose last row and column of pixels belong to them."""
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + 1
    inside = np.maximum(size, 0).prod(axis=1)
    return inside / ((box[2:] - box[:2] + 1).prod() + (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) - inside)
