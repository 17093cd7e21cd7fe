import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import paramap_d2.data  # noqa: F401  registers shapes
from paramap_d2.data.evaluation import _FastCOCOEvaluator
from paramap_d2.data.fast_coco import _OfNamedImages, fast_coco_eval


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_fast_figures_are_pycocotools_own(task, named, tmp_path):
    """Random boxes and masks near the objects, some of equal score: figures of all kinds, neither 0 nor 100."""
    records = [dict(record) for record in DatasetCatalog.get("shapes_val")]
    truth = json.loads(Path(MetadataCatalog.get("shapes_val").json_file).read_text())
    for item in truth["annotations"][::7]:
        item["iscrowd"] = 1
    if named:  # as in VOC form; the names' order is not that of the file
        names = {record["image_id"]: f"image {record['image_id'] * 37 % 1009}" for record in records}
        assert len(set(names.values())) == len(records)
        for record in records:
            record["image_id"] = names[record["image_id"]]
        for image in truth["images"]:
            image["id"] = names[image["id"]]
        for item in truth["annotations"]:
            item["image_id"] = names[item["image_id"]]
        # Detectron2 only warns of an object on an image that is not there.
        truth["annotations"].append({**truth["annotations"][0], "id": 10**6, "image_id": "nowhere"})
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    some = [record["image_id"] for record in records[::3]]
    MetadataCatalog.get("renamed").set(
        json_file=str(path),
        thing_dataset_id_to_contiguous_id=MetadataCatalog.get("shapes_val").thing_dataset_id_to_contiguous_id,
        thing_classes=MetadataCatalog.get("shapes_val").thing_classes,
    )

    def figures(kind, images=None):
        generator = torch.Generator().manual_seed(0)
        evaluator = kind("renamed", tasks=(task,), distributed=False, use_fast_impl=False)
        evaluator.reset()
        for record in records:
            truth = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
            boxes = torch.tensor(truth, dtype=torch.float32).repeat(3, 1)
            boxes += 4 * torch.randn(boxes.shape, generator=generator)
            boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
            found = Instances((record["height"], record["width"]))
            found.pred_boxes = Boxes(boxes)
            found.scores = (10 * torch.rand(len(boxes), generator=generator)).round() / 10
            classes = torch.tensor([a["category_id"] for a in record["annotations"]] * 3)
            wrong = torch.rand(len(boxes), generator=generator) < 0.2
            found.pred_classes = torch.where(wrong, 0, classes)
            if task == "segm":
                grid = torch.arange(max(found.image_size))
                x, y = grid[None, None, : found.image_size[1]], grid[None, : found.image_size[0], None]
                left, top, right, bottom = boxes[:, :, None, None].unbind(1)
                found.pred_masks = (x >= left) & (x < right) & (y >= top) & (y < bottom)
            evaluator.process([record], [{"instances": found}])
        return evaluator.evaluate(images)[task]

    try:
        want, got = figures(COCOEvaluator), figures(_FastCOCOEvaluator)
        part, got_part = (figures(kind, some) for kind in (COCOEvaluator, _FastCOCOEvaluator))
    finally:
        MetadataCatalog.remove("renamed")
    assert 0 < want["AP"] < want["AP50"] < 100 and part["AP"] != want["AP"]
    assert got == pytest.approx(want, nan_ok=True)
    assert got_part == pytest.approx(part, nan_ok=True)


def test_which_evaluator_takes_what():
    def kind(images, task="bbox"):
        coco = COCO()
        coco.dataset = {"images": [{"id": i} for i in images], "annotations": [], "categories": [{"id": 1}]}
        coco.createIndex()
        return type(fast_coco_eval(coco, coco, task))

    assert kind([3, 1]) is COCOeval_faster and kind(["b", "a"]) is _OfNamedImages
    assert kind([0.0, 1.0]) is kind([1, 2], "keypoints") is kind(["a"], "keypoints") is COCOeval
