"""Calibration of a detector's scores on a data set: by itself, and at the end of a training."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from torch import nn

from paramap_d2.data.detections import TRUE_IOU, DetectionCollector, Detections
from paramap_d2.data.reliability import draw_reliability, score_figures
from paramap_d2.errors import UserError
from paramap_d2.files import write_whole
from paramap_d2.modeling.box_ap_loss import box_ap_losses
from paramap_d2.modeling.calibration import (
    HIGHEST,
    Calibration,
    ScoreLayer,
    all_detections,
    fit_calibration,
    folded,
    score_layer,
)

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt

THRESHOLDS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Thresholds of calibrated scores that are tried for :func:`fast_threshold`."""

AP_TO_LOSE = 0.1
"""What a threshold for fast inference may cost, in percent AP."""


@dataclass(frozen=True)
class Calibrated:
    """How a detector was calibrated.

    Attributes:
        calibration: of the logits of the detector as it is.
        report: what ``calibration.json`` holds.
        before, after: the detections that it was fitted to, and those of the calibrated detector; on rank 0 alone.
    """

    calibration: Calibration
    report: dict[str, Any]
    before: Detections | None
    after: Detections | None


def calibrate(model: nn.Module, loader: Iterable[Any], dataset_name: str, per_class: bool = False) -> Calibrated:
    """Fit p = σ(a·s + b) to a detector's detections of a data set, and measure what folding it in changes.

    The detector detects all images twice (three times if sigmoids saturate), with no threshold on its scores. Its
    weights are as before when this returns. With several processes all have to call it.

    Args:
        model: a detector of sigmoid scores.
        loader: of the data set's images, each rank its share, as Detectron2's test loaders give them.
        dataset_name: the data set.
        per_class: an a and b for each class. One of both for all leaves every order as it is, and so AP.

    Raises:
        UserError: the detector's scores are no sigmoids, or the data set's detections do not suffice.
    """
    layer = score_layer(model)
    with all_detections(model):
        with _highest_logit(layer) as highest:
            before = _detections(model, loader, dataset_name)
        top = max(comm.all_gather(highest[0]))
        if top > HIGHEST:  # sigmoids are equal where logits are not: from lower down they tell all apart
            with folded(model, Calibration((1.0,), (-top,))):
                fitted_to, shift = _detections(model, loader, dataset_name), top
        else:
            fitted_to, shift = before, 0.0
        calibration, shared = _on_rank_0(lambda: _fit(fitted_to, shift, per_class))
        with folded(model, calibration):
            after = _detections(model, loader, dataset_name)
    report = _on_rank_0(lambda: _report(calibration, shared, dataset_name, before, after))
    return Calibrated(calibration, report, before, after)


def _detections(model: nn.Module, loader: Iterable[Any], dataset_name: str) -> Detections | None:
    found = inference_on_dataset(model, loader, DetectionCollector(dataset_name))
    return found if comm.is_main_process() else None


@contextlib.contextmanager
def _highest_logit(layer: ScoreLayer) -> Iterator[list[float]]:
    """A list whose one element is the highest class logit that the layer has made in this context."""
    highest = [-np.inf]

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        logits = layer.logits(output)
        if logits.numel():
            highest[0] = max(highest[0], float(logits.max()))

    handle = layer.layer.register_forward_hook(watch)
    try:
        yield highest
    finally:
        handle.remove()


def _on_rank_0(work: Callable[[], Any]) -> Any:
    """What ``work`` gives on rank 0, or the UserError that it raises there, on every rank."""
    outcome = None
    if comm.is_main_process():
        try:
            outcome = work()
        except UserError as error:
            outcome = error
    outcome = comm.all_gather(outcome)[0]
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _fit(detections: Detections, shift: float, per_class: bool) -> tuple[Calibration, list[str]]:
    """The calibration of logits that are higher by ``shift`` than these detections', and the classes that have too few
    detections for one of their own."""
    logits, counted = detections.logits, detections.counted
    common = fit_calibration(logits[counted], detections.true[counted])
    of_classes, shared = [common], []
    if per_class:
        of_classes = []
        for k, name in enumerate(detections.class_names):
            mine = counted & (detections.classes == k)
            try:
                of_classes.append(fit_calibration(logits[mine], detections.true[mine]))
            except UserError:
                of_classes.append(common)
                shared.append(name)
    return Calibration(tuple(a for a, _ in of_classes), tuple(b - a * shift for a, b in of_classes)), shared


def fast_threshold(detections: Detections) -> dict[str, Any]:
    """The largest of :data:`THRESHOLDS` that costs at most :data:`AP_TO_LOSE`, and what 0.05, Detectron2's default,
    costs."""
    whole, _ = detections.average_precision()

    def lost(threshold: float) -> float:
        ap, _ = detections.average_precision(threshold)
        return whole - ap if np.isfinite(ap) else whole

    largest = next((t for t in THRESHOLDS if lost(t) <= AP_TO_LOSE), 0.0)
    return {"largest": largest, "loses": lost(largest), "0.05 loses": lost(0.05)}


def _report(
    calibration: Calibration, shared: list[str], dataset_name: str, before: Detections, after: Detections
) -> dict[str, Any]:
    return {
        "format": 1,
        "data": dataset_name,
        "iou": TRUE_IOU,
        "a": list(calibration.a),
        "b": list(calibration.b),
        "classes": list(before.class_names),
        "classes_without_their_own": shared,
        "score_threshold": fast_threshold(after),
        "before": score_figures(before),
        "after": score_figures(after),
    }


def summary(report: dict[str, Any]) -> str:
    """The report's figures as lines of text."""
    lines = [f"{'on ' + report['data']:<24}{'before':>10}{'after':>10}"]
    rows = [
        ("AP", "AP"),
        ("precision at 0.5", "at", "precision"),
        ("recall at 0.5", "at", "recall"),
        ("F1 at 0.5", "at", "f1"),
        ("best F1", "best", "f1"),
        ("its threshold", "best", "threshold"),
        ("LaECE0", "laece0"),
        ("D-ECE above 0.1", "dece"),
    ]
    for name, *keys in rows:
        values = [report["before"], report["after"]]
        for key in keys:
            values = [value[key] for value in values]
        lines.append(f"{name:<24}" + "".join(f"{'-' if v is None else f'{v:.3f}':>10}" for v in values))
    for name, counts in report["after"]["classes"].items():
        lines.append(f"{name}: {counts['true']} of {counts['objects']} objects found at 0.5, {counts['false']} false")
    cost = report["score_threshold"]
    lines.append(
        f"a SCORE_THRESH_TEST of {cost['largest']:g} costs {cost['loses']:.2f} AP, one of 0.05 {cost['0.05 loses']:.2f}"
    )
    if report["classes_without_their_own"]:
        lines.append(f"too few detections, calibrated as all: {', '.join(report['classes_without_their_own'])}")
    return "\n".join(lines)


def save(model: nn.Module, calibrated: Calibrated, checkpoint: Path, report: Path, diagram: Path) -> None:
    """Write the calibrated detector's checkpoint, its report and its reliability diagrams; on rank 0 alone.

    The checkpoint is Detectron2's, with the report's a, b and data under ``calibration``. No file is ever half written.
    """
    if not comm.is_main_process():
        return
    about = {key: calibrated.report[key] for key in ("data", "a", "b")}
    with folded(model, calibrated.calibration):
        state = getattr(model, "module", model).state_dict()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_whole(checkpoint, lambda path: _save_checkpoint({"model": state, "calibration": about}, path))
    write_whole(report, (json.dumps(calibrated.report, indent=1) + "\n").encode())
    draw_reliability({"as trained": calibrated.before, "calibrated": calibrated.after}, diagram)


def _save_checkpoint(content: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:  # which fails with an OSError, where torch has a RuntimeError
        torch.save(content, file)


def warn_if_uncalibrated(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Say in one line that a detector's scores are no probabilities yet, if its loss leaves them so.

    Args:
        model: the detector.
        checkpoint: what loading its weights gave beside them, as Detectron2's checkpointer returns it.
    """
    if box_ap_losses(model) and "calibration" not in checkpoint:
        logger.warning(
            "these scores are those of a ranking loss and no probabilities: a threshold such as 0.5 means nothing "
            "until the checkpoint is calibrated (paramap calibrate --help); AP is not concerned"
        )


CALIBRATED = ("model_calibrated.pth", "calibration.json", "reliability.png")
"""What a calibration leaves beside ``model_final.pth``."""


class CalibrationHook(HookBase):
    """Calibrates the trained model at the end of a training, which leaves ``model_calibrated.pth``,
    ``calibration.json`` and ``reliability.png``. The model, and ``model_final.pth``, stay as trained.

    Args:
        model: what is trained.
        dataset_name: what its scores are calibrated on.
        build_loader: gives the data set's test loader.
        output_dir: where the files are left.
    """

    def __init__(self, model: nn.Module, dataset_name: str, build_loader: Callable[[], Iterable[Any]], output_dir: str):
        self.model, self.dataset_name, self.build_loader = model, dataset_name, build_loader
        self.folder = Path(output_dir)

    def before_train(self) -> None:
        try:
            score_layer(self.model)
        except UserError as error:
            logger.warning("This detector will not be calibrated on %s: %s", self.dataset_name, error)

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:  # the training has failed
            return
        try:
            calibrated = calibrate(self.model, self.build_loader(), self.dataset_name)
        except UserError as error:
            logger.warning("The detector is not calibrated on %s: %s", self.dataset_name, error)
            return
        checkpoint, *beside = (self.folder / name for name in CALIBRATED)
        try:
            save(self.model, calibrated, checkpoint, *beside)
        except OSError as error:
            logger.warning("The calibrated detector cannot be kept in %s: %s", self.folder, error.strerror or error)
            return
        logger.info("Calibrated scores: %s\n%s", checkpoint, summary(calibrated.report))
