"""Detections matched with objects, against a slow reference."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st

from paramap_d2.data import DatasetError
from paramap_d2.data.detections import DetectionCollector, match


def iou(a, b):
    """Of boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def reference(truth, found, least):
    """IoU of each detection with the object that it takes, 0 for none; no crowds."""
    taken, got = set(), np.zeros(len(found))
    for i in sorted(range(len(found)), key=lambda i: (-found[i]["score"], i)):
        d = found[i]
        free = [
            (iou(d["bbox"], g["bbox"]), n)
            for n, g in enumerate(truth["annotations"])
            if n not in taken and (g["image_id"], g["category_id"]) == (d["image_id"], d["category_id"])
        ]
        best = max(free, default=(0.0, None))
        if best[0] > 0 and best[0] >= least:
            taken.add(best[1])
            got[i] = best[0]
    return got


def coco_form(objects, detections):
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(objects, start=1)
        ],
    }
    found = [{"image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "score": s} for i, c, b, s in detections]
    return truth, found


box = st.builds(lambda x, y, w, h: [x, y, w, h], *[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2)
thing = st.tuples(st.integers(1, 2), st.integers(1, 2), box)


@given(st.lists(thing, max_size=6), st.lists(thing, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_matching_is_that_of_the_slow_reference(objects, boxes, random):
    scores = random.sample(range(1, 100), len(boxes))
    truth, found = coco_form(objects, [(*b, s / 100) for b, s in zip(boxes, scores, strict=True)])
    result = match(truth, found, ("a", "b"))
    at_half, at_any = reference(truth, found, 0.5), reference(truth, found, 0.0)
    # Of objects that a detection overlaps equally COCO takes the last: so may other detections get another one.
    pairs = {(i, c, tuple(b)) for i, c, b in objects}
    overlaps = [sorted(iou(d[2], g[2]) for g in objects if g[:2] == d[:2]) for d in boxes]
    if len(pairs) == len(objects) and all(len(set(o)) == len(o) for o in overlaps):
        assert np.array_equal(result.true, at_half > 0)
        assert result.iou == pytest.approx(at_any)
    assert result.counted.all() and result.objects.tolist() == [sum(o[1] == c for o in objects) for c in (1, 2)]


def test_a_crowd_makes_detections_count_neither_way():
    truth, found = coco_form(
        [(1, 1, [0, 0, 100, 100]), (1, 1, [200, 0, 10, 10])],
        [
            (1, 1, [0, 0, 10, 10], 0.9),
            (1, 1, [50, 50, 10, 10], 0.8),
            (1, 1, [200, 0, 10, 9], 0.7),
            (1, 1, [300, 0, 9, 9], 0.6),
        ],
    )
    truth["annotations"][0]["iscrowd"] = 1
    result = match(truth, found, ("a", "b"))
    assert result.counted.tolist() == [False, False, True, True]
    assert result.true.tolist() == [False, False, True, False]
    assert np.isnan(result.iou[:2]).all() and result.iou[2:].tolist() == pytest.approx([0.9, 0])
    assert result.objects.tolist() == [1, 0]


def drawn(name, count=6):
    """Inputs, and outputs that find most objects, some of them twice, and things that are not there."""
    import torch
    from detectron2.structures import Boxes, BoxMode, Instances

    records = DatasetCatalog.get(name)[:count]
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for record in records:
        truth = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        boxes = torch.tensor(truth, dtype=torch.float32).repeat(2, 1)
        boxes += 3 * torch.randn(boxes.shape, generator=generator)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        found = Instances((record["height"], record["width"]), pred_boxes=Boxes(boxes))
        found.scores = torch.rand(len(boxes), generator=generator)
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]] * 2)
        outputs.append({"instances": found})
    return records, outputs


def test_average_precision_is_the_evaluators():
    records, outputs = drawn("shapes_val", count=128)
    collector = DetectionCollector("shapes_val")
    evaluator = COCOEvaluator("shapes_val", tasks=("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for kind in (collector, evaluator):
        kind.process(records, outputs)
    detections = collector.evaluate()
    want = evaluator.evaluate()["bbox"]
    assert detections.average_precision() == pytest.approx((want["AP"], want["AP50"]))
    few, _ = detections.average_precision(0.9)
    assert few < 0.5 * want["AP"] and np.isnan(detections.average_precision(1.0)[0])
    assert detections.class_names == ("circle", "square", "triangle")
    assert 0 < detections.true.sum() <= detections.objects.sum() < len(detections.scores)


def test_ids_of_annotations_do_not_matter(tmp_path):
    """COCO's matching takes an object of id 0 for none."""
    import json

    from detectron2.data.datasets import register_coco_instances

    file = tmp_path / "zero.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 20}],
                "categories": [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}],
                "annotations": [
                    {"id": 0, "image_id": 7, "category_id": 9, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
                ],
            }
        )
    )
    import torch
    from detectron2.structures import Boxes, Instances

    register_coco_instances("zero_id", {}, str(file), str(tmp_path))
    try:
        DatasetCatalog.get("zero_id")
        collector = DetectionCollector("zero_id")
        found = Instances((20, 20), pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]] * 2)))
        found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
        collector.process([{"image_id": 7}], [{"instances": found}])
        detections = collector.evaluate()
    finally:
        DatasetCatalog.remove("zero_id")
        MetadataCatalog.remove("zero_id")
    assert detections.true.tolist() == [True, False] and detections.objects.tolist() == [0, 1]


def test_data_without_annotations_is_one_line(tmp_path):
    import json

    from detectron2.data.datasets import register_coco_instances

    file = tmp_path / "images.json"
    file.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": "x"}]}))
    register_coco_instances("no_annotations", {}, str(file), str(tmp_path))
    try:
        with pytest.raises(DatasetError, match="no_annotations"):
            DetectionCollector("no_annotations")
    finally:
        DatasetCatalog.remove("no_annotations")
        MetadataCatalog.remove("no_annotations")


def test_images_drawn_with_repeats_are_images_of_their_own():
    """Against data sets in which every repeat really is another image."""
    generator = np.random.default_rng(3)
    objects = [(i, c, [20 * n, 0, 10, 10]) for n, (i, c) in enumerate([(1, 1), (1, 2), (2, 1), (2, 1)])]
    found = [(i, c, [b[0] + shift, *b[1:]], generator.random()) for i, c, b in objects for shift in (1, 3)]
    truth, found = coco_form(objects, found)
    truth["images"] += [{"id": 3}, {"id": 4}]  # nothing is there
    found.append({"image_id": 3, "category_id": 2, "bbox": [0, 0, 5, 5], "area": 25, "score": 0.95})
    result = match(truth, found, ("a", "b"))
    got = result.resampled_average_precision(20, seed=5)
    again = np.random.default_rng(5)
    for ap in got:
        chosen = [truth["images"][place]["id"] for place in again.integers(4, size=4)]
        parts = [
            [{**x, "image_id": new} for x in of_all if x["image_id"] == old]
            for of_all in (truth["annotations"], found)
            for new, old in enumerate(chosen, start=1)
        ]
        annotations = [a for part in parts[:4] for a in part]
        copies = {**truth, "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)]}
        want, _ = match(copies, [d for part in parts[4:] for d in part], ("a", "b")).average_precision()
        assert np.isnan(ap) if not annotations else ap == pytest.approx(max(want, 0))
    assert np.array_equal(got, result.resampled_average_precision(20, seed=5), equal_nan=True)
    assert len(set(got)) > 5
