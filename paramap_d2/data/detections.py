"""The detections of a data set, each with whether it found an object, matched as COCO's evaluation matches."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .catalog import DatasetError
from .evaluation import coco_eval, read_truth

__all__ = ["DetectionCollector", "Detections"]

TRUE_IOU = 0.5
"""A detection is true if it is matched to an object at this IoU."""

_TOUCHES = 1e-6  # COCO's matching at IoU 0 would pair boxes that do not touch, too
_FIRST_ID = 1  # of numbered data


@dataclass(frozen=True)
class Detections:
    """N detections of a data set, in no order.

    Attributes:
        scores: (N,) from 0 to 1, as the detector gives them.
        classes: (N,) from 0.
        true: (N,) bool, matched to an object at IoU 0.5.
        counted: (N,) bool; not where a detection matches a crowd, which counts neither as true nor as false.
        iou: (N,) with the object that it is matched to at any IoU above 0, 0 for none, NaN for a crowd.
        objects: (K,) of each class, crowds left out.
        class_names: (K,).
        truth, found: objects and detections in COCO's form, images, classes and objects numbered from 1.
    """

    scores: np.ndarray
    classes: np.ndarray
    true: np.ndarray
    counted: np.ndarray
    iou: np.ndarray
    objects: np.ndarray
    class_names: tuple[str, ...]
    truth: dict[str, Any]
    found: list[dict[str, Any]]

    @property
    def logits(self) -> np.ndarray:
        """(N,) whose sigmoids the scores are."""
        scores = np.clip(self.scores, np.finfo(np.float32).tiny, 1 - np.finfo(np.float32).epsneg)
        return np.log(scores) - np.log1p(-scores)

    def average_precision(self, threshold: float = 0.0) -> tuple[float, float]:
        """COCO's AP and AP50 in percent without the detections that score below a threshold; NaN where none is left."""
        found = [item for item in self.found if item["score"] >= threshold]
        if not found:
            return float("nan"), float("nan")
        evaluation = _coco_eval(coco_eval("bbox"), self.truth, found)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return 100 * float(evaluation.stats[0]), 100 * float(evaluation.stats[1])

    def resampled_average_precision(self, draws: int, seed: int = 0) -> np.ndarray:
        """COCO's AP in percent on data sets of as many images, drawn from these with repeats: (draws,). Their spread is
        what hangs on the images (a bootstrap). The same seed draws the same images whatever the detections are, so that
        two detectors can be compared draw by draw."""
        evaluation = _coco_eval(COCOeval, self.truth, self.found)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        images = len(evaluation.params.imgIds)
        matched = np.array(evaluation.evalImgs, dtype=object).reshape(-1, images)  # of each class
        generator, found = np.random.default_rng(seed), np.empty(draws)
        for draw in range(draws):
            evaluation.evalImgs = matched[:, generator.integers(images, size=images)].ravel().tolist()
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.accumulate()
            precision = evaluation.eval["precision"]
            found[draw] = 100 * precision[precision >= 0].mean() if (precision >= 0).any() else np.nan
        return found


class DetectionCollector(DatasetEvaluator):
    """Gathers a detector's detections over all ranks: ``inference_on_dataset`` gives :class:`Detections` on rank 0.

    Args:
        dataset_name: a registered data set that :func:`paramap_d2.data.build_evaluator` evaluates.

    Raises:
        DatasetError: it is not there or not readable, or has no annotations.
    """

    def __init__(self, dataset_name: str):
        truth = read_truth(dataset_name)
        if "annotations" not in truth.coco:
            raise DatasetError(f"data set '{dataset_name}' has no annotations: nothing says which detections are true")
        self._images, self._truth = truth.images, truth.coco
        self.class_names = truth.class_names
        self.reset()

    def reset(self) -> None:
        self._found: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """As any evaluator's: Detectron2's inputs and outputs."""
        for x, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            for box, score, label in zip(
                boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
            ):
                self._found.append(
                    {
                        "image_id": self._images[x["image_id"]],
                        "category_id": label + _FIRST_ID,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "score": score,
                    }
                )

    def evaluate(self) -> Detections | None:
        """The detections of all ranks, on rank 0; None on the others."""
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        return match(self._truth, [item for of_rank in gathered for item in of_rank], self.class_names)


def _coco_eval(kind: type, truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        of_truth, of_found = COCO(), COCO()
        of_truth.dataset = truth
        of_found.dataset = {**truth, "annotations": [{**d, "id": i, "iscrowd": 0} for i, d in enumerate(found, 1)]}
        of_truth.createIndex()
        of_found.createIndex()
        return kind(of_truth, of_found, "bbox")


def match(truth: dict[str, Any], found: list[dict[str, Any]], class_names: Sequence[str]) -> Detections:
    """Which detections found an object: the best first, each the object of its class that it overlaps most and that no
    better one has found.

    Args:
        truth, found: as in :class:`Detections`.
    """
    count = len(found)
    true, counted, iou = np.zeros(count, dtype=bool), np.ones(count, dtype=bool), np.zeros(count)
    annotations = truth["annotations"]
    if found and annotations:
        evaluation = _coco_eval(COCOeval, truth, found)
        evaluation.params.iouThrs = np.array([_TOUCHES, TRUE_IOU])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [count]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        for image in evaluation.evalImgs:
            if image is None or not image["dtIds"]:
                continue
            index = np.array(image["dtIds"]) - 1
            true[index] = image["dtMatches"][1] > 0
            counted[index] = ~image["dtIgnore"][1].astype(bool)
            key = image["image_id"], image["category_id"]
            objects = {item["id"]: i for i, item in enumerate(evaluation._gts[key])}
            for row, (detection, matched) in enumerate(zip(index, image["dtMatches"][0], strict=True)):
                if image["dtIgnore"][0][row]:
                    iou[detection] = np.nan
                elif matched:
                    iou[detection] = evaluation.ious[key][row, objects[int(matched)]]
    objects = np.bincount(
        [item["category_id"] - _FIRST_ID for item in annotations if not item["iscrowd"]], minlength=len(class_names)
    )
    return Detections(
        scores=np.array([item["score"] for item in found], dtype=np.float64),
        classes=np.array([item["category_id"] - _FIRST_ID for item in found], dtype=np.int64),
        true=true & counted,
        counted=counted,
        iou=iou,
        objects=objects,
        class_names=tuple(class_names),
        truth=truth,
        found=found,
    )
