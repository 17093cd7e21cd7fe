"""Figures of scores, against counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.data.detections import Detections
from paramap_d2.data.reliability import best_threshold, dece, draw_reliability, laece0, score_figures


def detections(scores, true, iou=None, classes=None, objects=None, counted=None):
    scores, true = np.array(scores, dtype=float), np.array(true, dtype=bool)
    classes = np.zeros(len(scores), dtype=int) if classes is None else np.array(classes)
    objects = [int(true.sum()) + 1, 0] if objects is None else objects
    found = [
        {"image_id": 1, "category_id": int(c) + 1, "bbox": [0, 0, 1, 1], "area": 1, "score": s}
        for s, c in zip(scores.tolist(), classes, strict=True)
    ]
    truth = {"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    return Detections(
        scores=scores,
        classes=classes,
        true=true,
        counted=np.ones(len(scores), dtype=bool) if counted is None else np.array(counted),
        iou=true.astype(float) if iou is None else np.array(iou, dtype=float),
        objects=np.array(objects),
        class_names=("a", "b"),
        truth=truth,
        found=found,
    )


scored = st.lists(st.tuples(st.integers(0, 20).map(lambda i: i / 20), st.booleans()), max_size=30)


@given(scored, st.integers(0, 5))
def test_the_best_threshold_is_the_best_of_all(pairs, missed):
    scores, true = [s for s, _ in pairs], [t for _, t in pairs]
    d = detections(scores, true, objects=[sum(true) + missed, 0])

    def f1(threshold):
        kept = [t for s, t in pairs if s >= threshold]
        return 2 * sum(kept) / max(len(kept) + sum(true) + missed, 1)

    best = best_threshold(d)
    assert best["f1"] == pytest.approx(max((f1(t) for t in {1.0, *scores}), default=0))
    assert best["f1"] == pytest.approx(f1(best["threshold"])) or not scores
    at = score_figures(d)["at"]
    assert at["f1"] == pytest.approx(f1(0.5)) and at["f1"] <= best["f1"] + 1e-12


def test_calibration_errors_by_hand():
    # D-ECE's bins (0.1, 0.2], (0.6, 0.7]: means 0.15 and 0.65, shares 0 and 2/3; the lowest is left out.
    d = detections([0.15, 0.15, 0.65, 0.65, 0.65, 0.05], [0, 0, 1, 1, 0, 1], iou=[0.3, 0, 0.8, 0.6, 0.1, np.nan])
    assert dece(d) == pytest.approx((2 * 0.15 + 3 * abs(0.65 - 2 / 3)) / 5)
    # LaECE0's bins of 0.04: the three of 0.65 and the two of 0.15 share one each; a crowd counts in none.
    assert laece0(d) == pytest.approx((abs(0.3 - 0.3) + abs(1.95 - 1.5)) / 5)


def test_laece_is_a_mean_over_classes_with_detections():
    scores, iou, classes = [0.5, 0.5, 0.5, 0.9], [0.5, 0.5, 0.5, 0.1], [0, 0, 0, 1]
    assert laece0(detections(scores, [1, 1, 1, 0], iou, classes)) == pytest.approx((0 + 0.8) / 2)
    assert laece0(detections(scores[:3], [1, 1, 1], iou[:3], classes[:3])) == pytest.approx(0)


def test_scores_that_are_probabilities_have_small_errors_and_others_large_ones():
    generator = np.random.default_rng(0)
    p = generator.random(20_000)
    true = generator.random(20_000) < p
    assert dece(detections(p, true)) < 0.02 and laece0(detections(p, true)) < 0.02
    assert dece(detections(p / 4, true)) > 0.3 and laece0(detections(p / 4, true)) > 0.3


def test_figures_of_nothing():
    figures = score_figures(detections([], [], objects=[3, 0]))
    assert figures["AP"] is None and figures["laece0"] is None and figures["dece"] is None
    assert figures["at"]["f1"] == figures["best"]["f1"] == 0


def test_counts_by_class_leave_crowds_out():
    d = detections([0.9, 0.8, 0.7, 0.3], [1, 0, 0, 1], classes=[0, 0, 1, 1], counted=[1, 1, 0, 1], objects=[2, 3])
    d = Detections(**{**d.__dict__, "counted": np.array([True, True, False, True])})
    assert score_figures(d)["classes"] == {
        "a": {"objects": 2, "true": 1, "false": 1},
        "b": {"objects": 3, "true": 0, "false": 0},
    }


def test_the_diagram_is_a_picture(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    p = generator.random(500)
    d = detections(p, generator.random(500) < p)
    draw_reliability({"before": detections([], []), "after": d}, tmp_path / "diagram.png")
    with Image.open(tmp_path / "diagram.png") as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors(2**20)) > 20
