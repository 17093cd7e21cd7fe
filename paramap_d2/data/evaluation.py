"""Evaluators by data set: COCO's Average Precision everywhere, Pascal VOC's too where the data is VOC."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
    coco_evaluation,
)
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .catalog import DatasetError, check_datasets

__all__ = ["VOCEvaluator", "build_evaluator"]


class _OfNamedImages(COCOeval_faster):
    """It takes images by number alone; names, as in VOC form, are numbered here in the order in which pycocotools takes
    them, so that detections of equal score stay in theirs."""

    def __init__(self, truth: COCO, found: COCO, task: str):
        self._number = {image: number for number, image in enumerate(sorted(truth.getImgIds()), start=1)}
        super().__init__(*(_renumbered(coco, self._number) for coco in (truth, found)), task)

    def evaluate(self) -> None:
        number = self._number | {n: n for n in self._number.values()}  # as it was made, or named by who uses it
        self.params.imgIds = [number[image] for image in self.params.imgIds if image in number]
        super().evaluate()


def _renumbered(coco: COCO, number: dict[str, int]) -> COCO:
    items = [item for item in coco.dataset["annotations"] if item["image_id"] in number]
    other = COCO()
    other.dataset = {
        **coco.dataset,
        "images": [{**image, "id": number[image["id"]]} for image in coco.dataset["images"]],
        "annotations": [{**item, "image_id": number[item["image_id"]]} for item in items],
    }
    other.createIndex()
    return other


def _coco_eval(truth: COCO, found: COCO, task: str) -> COCOeval:
    """An evaluator of the same figures in a tenth of the time, but where it knows no way: keypoints, odd image ids."""
    kinds = {type(image) for image in truth.getImgIds()}
    fast = {(int,): COCOeval_faster, (str,): _OfNamedImages}.get(tuple(kinds), COCOeval)
    return (COCOeval if task == "keypoints" else fast)(truth, found, task)


if coco_evaluation.COCOeval_opt is COCOeval:  # a Detectron2 without its compiled part, which has a fast one
    coco_evaluation.COCOeval_opt = _coco_eval


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's Pascal VOC evaluator with its figures under `voc`, beside COCO's under `bbox`.

    Objects marked difficult are neither found nor missed, as VOC has it. It reads the annotation files
    themselves, so that boxes which the loader dropped still count as missed.
    """

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Returns {"voc": {"AP", "AP50", "AP75"}} in percent on rank 0, None on the others."""
        results = super().evaluate()
        if results is None:
            return None
        return OrderedDict(voc={key: float(value) for key, value in results["bbox"].items()})


@contextlib.contextmanager
def _in_coco_form(name: str) -> Iterator[None]:
    """For the length of the context, give the data set a `json_file` in COCO form if it has none.

    COCOEvaluator reads the file while it is made and never again. Left to itself it would write the file
    into its output folder, take an older one there for the same, and keep that path for the life of the
    process, even when the folder has gone.
    """
    metadata = MetadataCatalog.get(name)
    if hasattr(metadata, "json_file"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="coco-form-") as folder:
        path = os.path.join(folder, f"{name}.json")
        convert_to_coco_json(name, path, allow_cached=False)
        metadata.json_file = path
        try:
            yield
        finally:
            del metadata.json_file


def build_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    distributed: bool = True,
    voc: bool = True,
) -> DatasetEvaluator:
    """The evaluator of a data set, for `DefaultTrainer.build_evaluator` and for a LazyCall alike.

    Results: COCO's under `bbox` (and `segm`, `keypoints`); for data in VOC form also VOC's under `voc`. In
    COCO's figures for VOC data, objects marked difficult count like the others.

    Args:
        dataset_name: a registered name.
        output_dir: where COCOEvaluator leaves the predictions; None writes nothing.
        tasks: as for COCOEvaluator; None finds them from the predictions.
        distributed: gather the predictions of all ranks.
        voc: give VOC's figures too for data in VOC form. They take longer than COCO's.

    Raises:
        DatasetError: the data set is not registered or not there, or is of another kind.
    """
    check_datasets(dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in ("coco", "pascal_voc"):
        raise DatasetError(
            f"data set '{dataset_name}' has evaluator type '{kind}'; this evaluates 'coco' and 'pascal_voc'"
        )
    with _in_coco_form(dataset_name):
        coco = COCOEvaluator(dataset_name, tasks=tasks, distributed=distributed, output_dir=output_dir)
    return coco if kind == "coco" or not voc else DatasetEvaluators([coco, VOCEvaluator(dataset_name)])
