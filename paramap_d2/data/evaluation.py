"""Evaluators by data set: COCO's Average Precision everywhere, Pascal VOC's too where the data is VOC."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
    coco_evaluation,
)
from pycocotools.cocoeval import COCOeval

from .catalog import DatasetError, check_datasets

__all__ = ["VOCEvaluator", "build_evaluator"]

logger = logging.getLogger(__name__)


class _FastCOCOEvaluator(COCOEvaluator):
    """COCOEvaluator whose figures come from :mod:`paramap_d2.data.fast_coco`."""

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        from .fast_coco import fast_coco_eval

        # Detectron2 takes a faster implementation from its module alone. It gets its own back.
        own = coco_evaluation.COCOeval_opt
        coco_evaluation.COCOeval_opt, self._use_fast_impl = fast_coco_eval, True
        try:
            super()._eval_predictions(*args, **kwargs)
        finally:
            coco_evaluation.COCOeval_opt = own


def _coco_evaluator(name: str, **options: Any) -> COCOEvaluator:
    """The fastest that is here. A compiled Detectron2 brings one, and to others the package faster-coco-eval does."""
    if coco_evaluation.COCOeval_opt is not COCOeval:
        return COCOEvaluator(name, **options)
    if importlib.util.find_spec("faster_coco_eval") is not None:
        return _FastCOCOEvaluator(name, use_fast_impl=False, **options)  # Detectron2's own is not there
    logger.info("COCO's figures would take a tenth of the time by faster-coco-eval: pip install 'paramap_d2[coco]'")
    return COCOEvaluator(name, use_fast_impl=False, **options)


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
    scores: str | None = None,
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
        scores: a folder: give figures of the scores too, under `scores`, and leave a reliability diagram there.

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
        coco = _coco_evaluator(dataset_name, tasks=tasks, distributed=distributed, output_dir=output_dir)
    evaluators = [coco]
    if kind == "pascal_voc" and voc:
        evaluators.append(VOCEvaluator(dataset_name))
    if scores is not None:
        from .reliability import ScoreEvaluator  # which evaluates by this module

        evaluators.append(ScoreEvaluator(dataset_name, scores))
    return coco if len(evaluators) == 1 else DatasetEvaluators(evaluators)
