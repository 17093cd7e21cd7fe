"""Figures of COCO files whose ids, areas and boxes are as users have them."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from paramap_d2.config import read_config
from paramap_d2.data import DatasetError, build_evaluator, check_content
from paramap_d2.data import evaluation as ours
from paramap_d2.engine import Trainer
from paramap_d2.model_zoo import get_config_file

from .coco_form import evaluated, registered

ID_KINDS = {
    "from one": lambda rng, n: list(range(1, n + 1)),
    "from zero, shuffled": lambda rng, n: [int(i) for i in rng.permutation(n)],
    "with gaps": lambda rng, n: [int(i) for i in rng.choice(10 * n + 5, n, replace=False)],
    "negative": lambda rng, n: [-int(i) for i in rng.permutation(n)],
    "huge": lambda rng, n: [2**53 + int(i) for i in rng.permutation(n)],
    "beyond 64 bits": lambda rng, n: [2**70 + int(i) for i in rng.permutation(n)],
    "floats": lambda rng, n: [float(i) / 2 for i in rng.permutation(n)],
    "names": lambda rng, n: [f"no {i}" for i in rng.permutation(n)],
    "numbers as texts": lambda rng, n: [str(int(i)) for i in rng.permutation(n)],
}
"""Ids as users have them. That of place k stands for the same image, category or annotation in every kind."""


def draw(seed, kinds=("from one",) * 3, sound_areas=True):
    """A random COCO file with ids of the kinds (images, categories, annotations) and detections near its objects.

    Returns:
        the file's content, detections as `evaluated` takes them, image ids in the file's order.
    """
    rng = np.random.default_rng(seed)
    images, classes, objects = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 13))
    names = np.random.default_rng(seed + 1)  # apart, so that the kinds change the ids alone
    image_ids = ID_KINDS[kinds[0]](names, images)
    category_ids = ID_KINDS[kinds[1]](names, classes)
    annotation_ids = ID_KINDS[kinds[2]](names, objects)
    order = sorted(category_ids)
    annotations, detections = [], []
    for k in range(objects):
        image, label = int(rng.integers(images)), int(rng.integers(classes))
        box = [float(v) for v in (*rng.integers(0, 200, 2), *rng.integers(4, 200, 2))]
        crowd = bool(rng.random() < 0.15)
        area = box[2] * box[3] * (float(rng.uniform(0.3, 1)) if sound_areas else 1)
        annotations.append(
            {
                "id": annotation_ids[k],
                "image_id": image_ids[image],
                "category_id": category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
        )
        for _ in range(int(rng.integers(0, 4))):
            moved = np.array(box) + rng.normal(0, 0.1, 4) * max(box[2:])
            moved[2:] = np.maximum(moved[2:], 1)
            found = label if rng.random() < 0.8 else int(rng.integers(classes))
            place = order.index(category_ids[found])
            score = float(rng.integers(1, 10)) / 10  # equals among them
            detections.append((image_ids[image], place, tuple(moved.tolist()), score))
    coco = {
        "images": [
            {"id": label, "file_name": f"{k}.png", "width": 512, "height": 512} for k, label in enumerate(image_ids)
        ],
        "categories": [{"id": label, "name": f"class {k}"} for k, label in enumerate(category_ids)],
        "annotations": annotations,
    }
    return coco, detections, image_ids


def figures(coco, detections, image_ids, folder, **options):
    with registered(coco, folder) as name:
        return evaluated(build_evaluator(name, distributed=False, **options), detections, image_ids)["bbox"]


def reference(coco, detections, image_ids, folder):
    """Detectron2's own figures by pycocotools."""
    with registered(coco, folder) as name:
        DatasetCatalog.get(name)
        return evaluated(COCOEvaluator(name, distributed=False, use_fast_impl=False), detections, image_ids)["bbox"]


def renumbered(coco, detections, image_ids):
    """The slow and obvious way: the same file with ids 1, 2, ... in their order."""
    number = {
        key: {label: n for n, label in enumerate(sorted(entry["id"] for entry in coco[key]), start=1)}
        for key in ("images", "categories")
    }
    coco = copy.deepcopy(coco)
    for key in number:
        for entry in coco[key]:
            entry["id"] = number[key][entry["id"]]
    for n, item in enumerate(coco["annotations"], start=1):
        item["id"] = n
        item["image_id"] = number["images"][item["image_id"]]
        item["category_id"] = number["categories"][item["category_id"]]
    detections = [(number["images"][image], *rest) for image, *rest in detections]
    return coco, detections, [number["images"][i] for i in image_ids]


def same(one, other):
    """Equal, but for the order of classes."""
    assert set(one) == set(other)
    assert one == pytest.approx(other, rel=0, abs=1e-9, nan_ok=True)


kinds = st.tuples(*(st.sampled_from(sorted(ID_KINDS)),) * 3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), kinds=kinds)
def test_ids_are_labels(seed, kinds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    drawn = draw(seed, kinds)
    want = reference(*renumbered(*drawn), folder)
    same(figures(*drawn, folder), want)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["from one", "with gaps"]))
def test_where_pycocotools_is_right(seed, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    coco, detections, images = draw(seed, (kind, kind, "from one"))
    want = reference(coco, detections, images, folder)
    same(figures(coco, detections, images, folder), want)
    with pytest.MonkeyPatch.context() as patch:  # without faster-coco-eval
        patch.setattr(ours, "coco_eval", lambda task: COCOeval)
        same(figures(coco, detections, images, folder), want)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), kinds=kinds, odd=st.sampled_from([None, 0, "12", -3.0, math.nan, True, "absent"]))
def test_an_area_that_cannot_be_is_the_boxs(seed, kinds, odd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("area")
    coco, detections, images = draw(seed, kinds, sound_areas=False)
    want = figures(coco, detections, images, folder)
    for item in coco["annotations"]:
        item["area"] = odd
        if odd == "absent":
            del item["area"]
    same(figures(coco, detections, images, folder), want)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), kinds=kinds)
def test_the_truth_given_as_detections_has_100(seed, kinds, tmp_path_factory):
    coco, _, images = draw(seed, kinds)
    for item in coco["annotations"]:
        item["iscrowd"] = 0
    order = sorted(c["id"] for c in coco["categories"])
    found = [(a["image_id"], order.index(a["category_id"]), tuple(a["bbox"]), 0.5) for a in coco["annotations"]]
    got = figures(coco, found, images, tmp_path_factory.mktemp("truth"))
    assert got["AP"] == pytest.approx(100)
    assert all(value == pytest.approx(100) for key, value in got.items() if not math.isnan(value)), got


def four(ids):
    """Four images with one object each; a detection on it."""
    boxes = [[10.0, 20.0, 30.0 + k, 40.0] for k in range(4)]
    coco = {
        "images": [{"id": k + 1, "file_name": f"{k}.png", "width": 512, "height": 512} for k in range(4)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": label, "image_id": k + 1, "category_id": 1, "bbox": box, "area": 1200.0, "iscrowd": 0}
            for k, (label, box) in enumerate(zip(ids, boxes, strict=True))
        ],
    }
    return coco, [(k + 1, 0, tuple(box), 0.9) for k, box in enumerate(boxes)], [1, 2, 3, 4]


@pytest.mark.parametrize(
    "ids", [[0, 1, 2, 3], [-1, -2, -3, -4], [0.5, 1.5, 2.5, 3.5], list("abcd"), [2**70 + k for k in range(4)]]
)
def test_ids_that_were_seen_to_change_figures(ids, tmp_path):
    assert figures(*four(ids), tmp_path)["AP"] == pytest.approx(100)


def test_annotations_without_ids_are_told_since_detectron2_cannot_load_them(tmp_path):
    coco, *_ = four([1, 2, 3, 4])
    with registered(coco, tmp_path) as name:
        del coco["annotations"][2]["id"]
        (tmp_path / f"{name}.json").write_text(json.dumps(coco))
        with pytest.raises(DatasetError, match=r"annotations\[2\] has the id null"):
            check_content([name])


def test_a_box_of_no_size_is_no_object(tmp_path, caplog):
    coco, found, images = four([1, 2, 3, 4])
    for k, box in enumerate(([5, 5, 0, 9], [5, 5, 9, 0], [5, 5, -3, 9])):
        coco["annotations"].append({**coco["annotations"][0], "id": 10 + k, "bbox": box})
    with registered(coco, tmp_path, "with_empty_boxes") as name:
        got = evaluated(build_evaluator(name, distributed=False), found, images)["bbox"]
    assert got["AP"] == pytest.approx(100)
    assert "'with_empty_boxes': left out 3 boxes without width or height: annotation 10 of image 1; " in caplog.text


def test_what_is_written_has_the_users_own_ids(tmp_path):
    coco, found, images = draw(3, ("huge", "names", "from zero, shuffled"))
    out = tmp_path / "out"
    figures(coco, found, images, tmp_path, output_dir=str(out))
    written = json.loads((out / "coco_instances_results.json").read_text())
    assert len(written) == len(found) > 0
    order = sorted(c["id"] for c in coco["categories"])
    assert {(w["image_id"], w["category_id"]) for w in written} == {(d[0], order[d[1]]) for d in found}
    kept = torch.load(out / "instances_predictions.pth", weights_only=False)
    assert {p["image_id"] for p in kept} == set(images)


def test_some_images_by_their_own_ids(tmp_path):
    coco, found, images = four([1, 2, 3, 4])
    coco["images"][2]["id"] = coco["annotations"][2]["image_id"] = 2**60 + 1
    images[2] = 2**60 + 1
    found = [found[0], found[1]]
    with registered(coco, tmp_path) as name:
        evaluator = build_evaluator(name, distributed=False)
        assert evaluated(evaluator, found, images)["bbox"]["AP"] < 60
        assert evaluated(evaluator, found, images, img_ids=[1, 2])["bbox"]["AP"] == pytest.approx(100)
        assert evaluated(evaluator, found, images, img_ids=[1, 2**60 + 1])["bbox"]["AP"] < 60


def test_proposals(tmp_path):
    coco, _, _ = four([0, 1, 2, 3])
    for entry in (*coco["images"], *coco["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"image {entry[key]}"
    with registered(coco, tmp_path) as name:
        evaluator = build_evaluator(name, str(tmp_path / "out"), distributed=False)
        evaluator.reset()
        for item in coco["annotations"]:
            found = Instances((512, 512))
            x, y, w, h = item["bbox"]
            found.proposal_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]]))
            found.objectness_logits = torch.zeros(1)
            evaluator.process([{"image_id": item["image_id"]}], [{"proposals": found}])
        assert evaluator.evaluate()["box_proposals"]["AR@100"] == pytest.approx(100)
    kept = np.load(tmp_path / "out" / "box_proposals.pkl", allow_pickle=True)
    assert kept["ids"] == [item["image_id"] for item in coco["annotations"]]


@pytest.mark.parametrize(
    "found, message",
    [
        ([(9, 0, (1, 2, 3, 4), 0.5)], "given image 9, which data set 'of_a_user' does not have"),
        ([(1, 1, (1, 2, 3, 4), 0.5)], "finds class 1 .from 0., and data set 'of_a_user' has 1 classes"),
    ],
)
def test_detections_of_other_data(found, message, tmp_path):
    coco, _, images = four([1, 2, 3, 4])
    with pytest.raises(DatasetError, match=message):
        figures(coco, found, [*images, 9], tmp_path)


def test_without_detections_and_without_annotations(tmp_path):
    coco, found, images = four([1, 2, 3, 4])
    assert math.isnan(figures(coco, [], images, tmp_path)["AP"])
    del coco["annotations"]
    with registered(coco, tmp_path) as name:
        evaluator = build_evaluator(name, str(tmp_path / "out"), distributed=False)
        assert not evaluated(evaluator, found, images)  # a test set whose answers are elsewhere
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 4


def test_importing_changes_nothing_of_detectron2():
    from detectron2.evaluation import coco_evaluation as stock

    assert stock.COCOeval_opt is COCOeval or stock.COCOeval_opt.__module__.startswith("detectron2")


def test_without_faster_coco_eval(monkeypatch):
    monkeypatch.setattr(coco_evaluation, "COCOeval_opt", COCOeval)
    assert ours.coco_eval("bbox").__module__.startswith("faster_coco_eval")
    assert ours.coco_eval("keypoints") is COCOeval
    monkeypatch.setattr(ours.importlib.metadata, "version", lambda name: "1.5.9")
    assert ours.coco_eval("bbox") is COCOeval
    monkeypatch.undo()
    monkeypatch.setattr(coco_evaluation, "COCOeval_opt", COCOeval)
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core.faster_eval_api", None)
    assert ours.coco_eval("bbox") is COCOeval


def test_masks(tmp_path, caplog):
    """Figures of masks by the fast way and by pycocotools, some of equal score, crowds among the objects."""
    truth = json.loads(Path(MetadataCatalog.get("shapes_val").json_file).read_text())
    truth["images"] = truth["images"][:12]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
    for item in truth["annotations"][::7]:
        item["iscrowd"] = 1

    def measured(make):
        generator = torch.Generator().manual_seed(0)
        with registered(truth, tmp_path) as name:
            records = DatasetCatalog.get(name)
            evaluator = make(name)
            evaluator.reset()
            for record in records:
                boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
                boxes = torch.tensor(boxes, dtype=torch.float32).repeat(3, 1)
                boxes += 4 * torch.randn(boxes.shape, generator=generator)
                boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
                found = Instances((record["height"], record["width"]))
                found.pred_boxes = Boxes(boxes)
                found.scores = (10 * torch.rand(len(boxes), generator=generator)).round() / 10
                found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]] * 3)
                grid = torch.arange(max(found.image_size))
                x, y = grid[None, None, : found.image_size[1]], grid[None, : found.image_size[0], None]
                left, top, right, bottom = boxes[:, :, None, None].unbind(1)
                found.pred_masks = (x >= left) & (x < right) & (y >= top) & (y < bottom)
                evaluator.process([record], [{"instances": found}])
            return evaluator.evaluate()

    want = measured(lambda name: COCOEvaluator(name, distributed=False, use_fast_impl=False))
    got = measured(lambda name: build_evaluator(name, distributed=False))
    assert set(got) == {"bbox", "segm"} and 0 < want["segm"]["AP"] < 100
    for task in got:
        same(got[task], want[task])
    truth["annotations"][1].pop("segmentation")
    boxes_alone = measured(lambda name: build_evaluator(name, distributed=False))
    assert set(boxes_alone) == {"bbox"} and "has objects without a mask: its masks are not" in caplog.text
    same(boxes_alone["bbox"], want["bbox"])


def test_widths_of_keypoints_are_those_of_the_config():
    assert list(build_evaluator("shapes_val", kpt_oks_sigmas=[0.1, 0.2])._kpt_oks_sigmas) == [0.1, 0.2]
    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"), ["TEST.KEYPOINT_OKS_SIGMAS", "[0.3]"])
    assert list(Trainer.build_evaluator(cfg, "shapes_val", "out")._kpt_oks_sigmas) == [0.3]
