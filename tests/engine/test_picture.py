"""A picture of detections."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, Instances
from PIL import Image

from paramap_d2.engine.picture import COLOURS, draw_detections


class Fixed(torch.nn.Module):
    """Finds one box of each class in every image, the first surely."""

    def forward(self, inputs):
        boxes = torch.tensor([[10.0, 10, 60, 60], [70, 70, 120, 120], [10, 70, 60, 120]])
        found = Instances((128, 128), pred_boxes=Boxes(boxes))
        found.scores, found.pred_classes = torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0, 1, 2])
        return [{"instances": found} for _ in inputs]


@pytest.mark.parametrize("threshold, drawn", [(0.5, 2), (0.95, 0), (0.0, 3)])
def test_detections_from_the_threshold_on_are_drawn(threshold, drawn, tmp_path):
    records = DatasetCatalog.get("shapes_val")[:5]
    path = tmp_path / "detections.png"
    assert draw_detections(Fixed(), records, "shapes_val", path, threshold) == 5 * drawn
    with Image.open(path) as image:
        picture = torch.tensor(np.asarray(image.convert("RGB")).reshape(-1, 3))
        assert image.width == 960 and image.height == 480  # four images wide
    own = {
        tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        for colour in COLOURS[:3]
        if (picture == torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])).all(1).sum() > 200
    }
    assert len(own) == drawn
    assert read_image(records[0]["file_name"], "RGB").shape == (128, 128, 3)
