"""Whether scores can be thresholded: precision and recall, calibration errors, the reliability diagram."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paramap_d2.files import write_whole

from .detections import DetectionCollector, Detections

__all__ = ["ScoreEvaluator", "draw_reliability", "score_figures"]

LAECE_BINS, DECE_BINS = 25, 10
"""Bins of the two calibration errors, as many as in Kuzucu et al.'s evaluation."""

DECE_LOWEST = 0.1
"""D-ECE is of detections that score more: of all, most of which are false, it would be least for one low constant."""


def score_figures(detections: Detections, threshold: float = 0.5) -> dict[str, Any]:
    """What the scores of detections are good for.

    Returns:
        ``AP`` and ``AP50`` in percent; ``at`` the threshold and at the ``best`` one, each with ``threshold``,
        ``precision``, ``recall`` and ``f1``, over all classes together; ``laece0``, ``dece`` and ``dece_detections``,
        how many it is of; ``detections`` and ``true``, their numbers; ``classes``: for each its ``objects``, and its
        ``true`` and ``false`` detections at the threshold. What is not defined is None.
    """
    d = detections
    ap, ap50 = d.average_precision()
    kept = d.counted & (d.scores >= threshold)
    in_dece = d.counted & (d.scores > DECE_LOWEST)
    classes = {
        name: {
            "objects": int(d.objects[k]),
            "true": int((kept & d.true & (d.classes == k)).sum()),
            "false": int((kept & ~d.true & (d.classes == k)).sum()),
        }
        for k, name in enumerate(d.class_names)
    }
    return {
        "AP": _or_none(ap),
        "AP50": _or_none(ap50),
        "at": {"threshold": threshold, **_rates(int((kept & d.true).sum()), int(kept.sum()), int(d.objects.sum()))},
        "best": best_threshold(d),
        "laece0": laece0(d),
        "dece": dece(d),
        "dece_detections": int(in_dece.sum()),
        "detections": int(d.counted.sum()),
        "true": int(d.true.sum()),
        "classes": classes,
    }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rates(true: int, found: int, objects: int) -> dict[str, float]:
    """Precision is 0 where nothing is found, recall where there is nothing to find."""
    return {
        "precision": true / max(found, 1),
        "recall": true / max(objects, 1),
        "f1": 2 * true / max(found + objects, 1),
    }


def best_threshold(detections: Detections) -> dict[str, float]:
    """The score at and above which detections have the highest F1, and their rates; of equal ones the highest."""
    scores, true = detections.scores[detections.counted], detections.true[detections.counted]
    objects = int(detections.objects.sum())
    if not len(scores):
        return {"threshold": 1.0, **_rates(0, 0, objects)}
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(true[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # detections of equal score go together
    best = ends[np.argmax(2 * hits[ends] / (ends + 1 + objects))]
    return {"threshold": float(scores[best]), **_rates(int(hits[best]), int(best) + 1, objects)}


def _calibration_error(scores: np.ndarray, hits: np.ndarray, bins: int) -> float:
    """Σ over bins of |sum of scores − sum of hits|, per detection."""
    index = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(index, scores - hits, bins)).sum() / len(scores))


def laece0(detections: Detections) -> float | None:
    """Localization-aware expected calibration error: how far scores are from the IoU with the object found.

    For each class, the mean over detections of |score − IoU| of their bin of 25; then the mean over classes with
    detections. The IoU is with the object matched at any overlap, 0 for none.
    Source: Kuzucu et al., "On Calibration of Object Detectors: Pitfalls, Evaluation and Baselines" (ECCV 2024); here
    of all detections, where they leave out those below a threshold of their own for each detector.
    """
    of_classes = []
    counted = np.isfinite(detections.iou)
    for k in range(len(detections.class_names)):
        mine = counted & (detections.classes == k)
        if mine.any():
            of_classes.append(_calibration_error(detections.scores[mine], detections.iou[mine], LAECE_BINS))
    return float(np.mean(of_classes)) if of_classes else None


def dece(detections: Detections) -> float | None:
    """Detection expected calibration error: how far scores above 0.1 are from the share of true detections, in 10 bins.

    Source: Küppers et al., "Multivariate Confidence Calibration for Object Detection" (CVPR workshops 2020), by the
    score alone.
    """
    kept = detections.counted & (detections.scores > DECE_LOWEST)
    return _calibration_error(detections.scores[kept], detections.true[kept], DECE_BINS) if kept.any() else None


def draw_reliability(detections: Mapping[str, Detections], path: str | os.PathLike[str]) -> None:
    """Reliability diagrams side by side: for each bin of scores the share of true detections, and how many there are.

    Args:
        detections: by the title of their diagram.
        path: of the picture; its suffix says in which format.
    """
    figure = Figure(figsize=(3.6 * len(detections), 4.4), layout="constrained")
    axes = figure.subplots(2, len(detections), sharex=True, squeeze=False, height_ratios=[3, 1])
    for column, (title, of_title) in enumerate(detections.items()):
        _draw_reliability(axes[0, column], axes[1, column], of_title)
        axes[0, column].set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("share of true detections")
    axes[1, 0].set_ylabel("detections")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix.removeprefix("."), dpi=120)
    write_whole(path, drawn.getvalue())


def _draw_reliability(upper: Axes, lower: Axes, detections: Detections) -> None:
    scores, true = detections.scores[detections.counted], detections.true[detections.counted]
    edges = np.linspace(0, 1, DECE_BINS + 1)
    index = np.clip(np.ceil(scores * DECE_BINS).astype(int) - 1, 0, DECE_BINS - 1)
    count = np.bincount(index, minlength=DECE_BINS)
    hits = np.bincount(index, true, DECE_BINS)
    filled = count > 0
    share, centers, width = hits[filled] / count[filled], (edges[:-1] + edges[1:])[filled] / 2, 0.9 / DECE_BINS
    upper.bar(centers, share, width, color="#56b4e9", edgecolor="#0072b2")
    upper.plot([0, 1], [0, 1], color="#d55e00", linestyle="--", linewidth=1.2)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.bar(centers, count[filled], width, color="#9aa3ae")
    lower.set_yscale("log")
    lower.set_ylim(0.8, max(10, 2 * count.max(initial=1)))
    lower.set_xlabel("score")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)


class ScoreEvaluator(DatasetEvaluator):
    """An evaluator with the figures of a data set's scores under ``scores``, and the reliability diagram.

    Args:
        dataset_name: a registered name.
        output_dir: where ``reliability_<dataset_name>.png`` is left.
    """

    def __init__(self, dataset_name: str, output_dir: str):
        self._collector, self._output_dir = DetectionCollector(dataset_name), output_dir
        self._name = dataset_name
        self.reset, self.process = self._collector.reset, self._collector.process

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"scores": flat figures} on rank 0, None on the others; of classes, the counts at 0.5."""
        detections = self._collector.evaluate()
        if detections is None:
            return None
        os.makedirs(self._output_dir, exist_ok=True)
        path = os.path.join(self._output_dir, f"reliability_{self._name}.png")
        draw_reliability({self._name: detections}, path)
        figures = score_figures(detections)
        flat = {f"{key}@0.5": figures["at"][key] for key in ("precision", "recall", "f1")}
        flat |= {f"{key}@best": figures["best"][key] for key in ("threshold", "precision", "recall", "f1")}
        flat |= {"laece0": figures["laece0"], "dece": figures["dece"]}
        for name, counts in figures["classes"].items():
            flat |= {f"{key}-{name}": float(value) for key, value in counts.items()}
        return {"scores": {key: float("nan") if value is None else value for key, value in flat.items()}}
