"""Evaluators by data set: COCO's Average Precision everywhere, Pascal VOC's too where the data is VOC."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, coco_evaluation
from packaging.version import Version
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .catalog import DatasetError, check_datasets, coco_json, warn_of_empty_boxes
from .coco_file import NumberedCOCO, number, read_coco
from .voc_evaluation import VOCEvaluator

__all__ = ["EVALUATED", "NumberedCOCOEvaluator", "build_evaluator", "coco_eval", "read_truth"]

EVALUATED = ("coco", "pascal_voc")
"""The evaluator types that data sets may have."""

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt


class NumberedCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator for data whose ids may be anything.

    pycocotools takes an annotation's id 0 for no annotation at all, its faster kin every id that is not a positive
    64-bit number; texts for ids of categories stop both. So they are given numbers, sound areas and no empty boxes
    (see :mod:`~paramap_d2.data.coco_file`); what is written has the user's own ids.
    """

    def __init__(self, dataset_name: str, truth: NumberedCOCO, **options: Any):
        """
        Args:
            dataset_name: a registered name.
            truth: its content.
            options: COCOEvaluator's.
        """
        annotated = {"annotations": []} if "annotations" in truth.coco else {}
        stand_in = f"{dataset_name} under numbers"  # what COCOEvaluator reads while it is made
        with tempfile.TemporaryDirectory(prefix="numbered-") as folder:
            path = os.path.join(folder, "empty.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"images": [], "categories": [], **annotated}, file)
            MetadataCatalog.get(stand_in).json_file = path
            try:
                super().__init__(stand_in, use_fast_impl=False, **options)  # see coco_eval
            finally:
                MetadataCatalog.remove(stand_in)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._truth = truth
        self._coco_api = COCO()
        self._coco_api.dataset = truth.coco
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Sequence[Any] | None = None) -> None:
        found = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        tasks = self._tasks or self._tasks_from_predictions(found)
        if "segm" in tasks and not all(item.get("segmentation") for item in self._truth.coco.get("annotations", ())):
            logger.warning(f"data set '{self._metadata.name}' has objects without a mask: its masks are not evaluated")
            tasks = [task for task in tasks if task != "segm"]
        categories = self._truth.categories
        for item in found:
            if item["category_id"] >= len(categories):
                raise DatasetError(
                    f"the detector finds class {item['category_id']} (from 0), "
                    f"and data set '{self._metadata.name}' has {len(categories)} classes"
                )
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump([{**item, "category_id": categories[item["category_id"]]} for item in found], file)
        if not self._do_evaluation:
            logger.info("The data set has no annotations: predictions are written, not evaluated.")
            return
        numbered = [
            {**item, "image_id": self._number(item["image_id"]), "category_id": item["category_id"] + 1}
            for item in found
        ]
        images = self._truth.images
        for task in sorted(tasks):
            evaluated = None  # of no detections Detectron2 says NaN
            if numbered:
                evaluated = coco_evaluation._evaluate_predictions_on_coco(
                    self._coco_api,
                    numbered,
                    task,
                    kpt_oks_sigmas=self._kpt_oks_sigmas,
                    cocoeval_fn=coco_eval(task),
                    img_ids=None if img_ids is None else [images[i] for i in img_ids if i in images],
                    max_dets_per_image=self._max_dets_per_image,
                )
            self._results[task] = self._derive_coco_results(evaluated, task, class_names=self._truth.class_names)

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        numbered = [{**p, "image_id": self._number(p["image_id"])} for p in predictions]
        super()._eval_box_proposals(numbered)
        if self._output_dir:
            path = os.path.join(self._output_dir, "box_proposals.pkl")
            with open(path, "rb") as file:
                proposals = pickle.load(file)
            proposals["ids"] = [p["image_id"] for p in predictions]
            with open(path, "wb") as file:
                pickle.dump(proposals, file)

    def _number(self, image: Any) -> int:
        try:
            return self._truth.images[image]
        except KeyError:
            raise DatasetError(
                f"the detector was given image {image!r}, which data set '{self._metadata.name}' does not have: "
                "test images and evaluator must be of the same data set"
            ) from None


def coco_eval(task: str) -> type:
    """What computes the figures: Detectron2's compiled part or faster-coco-eval, which take a tenth of the time, or
    pycocotools. All agree on numbered data; keypoints are pycocotools' alone."""
    if task == "keypoints":
        return COCOeval
    if coco_evaluation.COCOeval_opt is not COCOeval:
        return coco_evaluation.COCOeval_opt
    try:
        if Version(importlib.metadata.version("faster-coco-eval")) >= Version("1.6"):
            from faster_coco_eval.core.faster_eval_api import COCOeval_faster

            return COCOeval_faster
    except ImportError:
        pass
    logger.info("COCO's figures would take a tenth of the time by faster-coco-eval: pip install 'paramap_d2[coco]'")
    return COCOeval


def read_truth(name: str) -> NumberedCOCO:
    """A data set's content, whatever its form, as its evaluators take it.

    Raises:
        DatasetError: it is not registered, not there or not readable.
    """
    check_datasets(name)
    metadata = MetadataCatalog.get(name)
    if json_file := coco_json(name):
        coco = read_coco(json_file)
    else:
        coco = {"annotations": [], **convert_to_coco_dict(name)}
    classes = metadata.get("thing_dataset_id_to_contiguous_id")
    if classes and set(classes) != {category["id"] for category in coco["categories"]}:
        raise DatasetError(f"data set '{name}' is registered with other category ids than its file has")
    truth = number(coco, sorted(classes, key=classes.get) if classes else None)
    if truth.empty:
        boxes = tuple(f"annotation {item.get('id')} of image {item['image_id']}" for item in truth.empty)
        warn_of_empty_boxes(name, boxes)
    return truth


def build_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    distributed: bool = True,
    voc: bool = True,
    scores: str | None = None,
    kpt_oks_sigmas: Sequence[float] = (),
) -> DatasetEvaluator:
    """The evaluator of a data set, for `DefaultTrainer.build_evaluator` and for a LazyCall alike.

    Results: COCO's under `bbox` (and `segm`, `keypoints`); for data in VOC form also VOC's under `voc`. In
    COCO's figures for VOC data, objects marked difficult count like the others.

    Args:
        dataset_name: a registered name.
        output_dir: where COCOEvaluator leaves the predictions; None writes nothing.
        tasks: as for COCOEvaluator; None finds them from the predictions.
        distributed: gather the predictions of all ranks.
        voc: give VOC's figures too for data in VOC form.
        scores: a folder: give figures of the scores too, under `scores`, and leave a reliability diagram there.
        kpt_oks_sigmas: of each keypoint, as TEST.KEYPOINT_OKS_SIGMAS; empty for COCO's own 17.

    Raises:
        DatasetError: the data set is not registered, not there or not readable, or is of another kind.
    """
    check_datasets(dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in EVALUATED:
        raise DatasetError(
            f"data set '{dataset_name}' has evaluator type '{kind}'; this evaluates 'coco' and 'pascal_voc'"
        )
    options = {"tasks": tasks, "distributed": distributed, "output_dir": output_dir}
    options["kpt_oks_sigmas"] = list(kpt_oks_sigmas)
    evaluators: list[DatasetEvaluator] = [NumberedCOCOEvaluator(dataset_name, read_truth(dataset_name), **options)]
    if kind == "pascal_voc" and voc:
        evaluators.append(VOCEvaluator(dataset_name, distributed))
    if scores is not None:
        from .reliability import ScoreEvaluator  # which evaluates by this module

        evaluators.append(ScoreEvaluator(dataset_name, scores))
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
