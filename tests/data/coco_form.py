"""Writes and registers small data sets in COCO form for the tests."""

import json
from contextlib import contextmanager

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances


@contextmanager
def registered(coco, folder, name="of_a_user"):
    """The content, in a file of `folder`, registered under the name for the length of the context."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(coco))
    register_coco_instances(name, {}, str(path), str(folder))
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluated(evaluator, detections, image_ids, size=(512, 512), img_ids=None):
    """The evaluator's results for detections [(image id, class from 0, (x, y, w, h), score)]."""
    evaluator.reset()
    for image in image_ids:
        mine = [d for d in detections if d[0] == image]
        found = Instances(size)
        found.pred_boxes = Boxes(
            torch.tensor([[x, y, x + w, y + h] for _, _, (x, y, w, h), _ in mine], dtype=torch.float32).reshape(-1, 4)
        )
        found.scores = torch.tensor([d[3] for d in mine], dtype=torch.float32)
        found.pred_classes = torch.tensor([d[1] for d in mine], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return evaluator.evaluate(img_ids)
