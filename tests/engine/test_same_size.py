import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.config import read_config
from paramap_d2.engine import Trainer
from paramap_d2.engine.cpu_speed import HELD, SameSizeBatches

CONFIG = "projects/ParamAP/configs/shapes_retinanet_R_18_FPN.yaml"


class Loader(list):
    """Batches of one image, that counts those it has given."""

    given = 0

    def __iter__(self):
        for item in super().__iter__():
            self.given += 1
            yield [item]


@given(sizes=st.lists(st.sampled_from([(3, 4, 4), (3, 4, 5), (3, 5, 4), (1, 4, 4)])), images=st.integers(1, 5))
def test_every_image_once_with_others_of_its_size_alone(sizes, images):
    loader = Loader({"image": torch.empty(size), "image_id": i} for i, size in enumerate(sizes))
    batches = list(SameSizeBatches(loader, images))
    assert sorted(one["image_id"] for batch in batches for one in batch) == list(range(len(sizes)))
    assert all(len({one["image"].shape for one in batch}) == 1 and len(batch) <= images for batch in batches)
    unfilled = [batch[0]["image"].shape for batch in batches if len(batch) < images]
    if len(sizes) < HELD * images:
        assert len(unfilled) == len(set(unfilled))


def test_images_of_ever_new_sizes_are_not_hoarded():
    loader = Loader({"image": torch.empty(3, 1, i + 1)} for i in range(500))
    given_out = 0
    for batch in SameSizeBatches(loader, 4):
        given_out += len(batch)
        assert loader.given - given_out <= HELD * 4
    assert given_out == 500


def test_a_batch_of_no_images_is_refused():
    with pytest.raises(ValueError, match="images must be at least 1, not 0"):
        SameSizeBatches([], 0)


@pytest.mark.slow
def test_a_detector_finds_the_same():
    cfg = read_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    loader = Trainer.build_test_loader(cfg, "shapes_val")
    sides = (128, 96, 128, 64, 96, 128, 128)
    inputs = [one for (one,), _ in zip(loader, sides, strict=False)]
    for one, side in zip(inputs, sides, strict=True):
        one["image"] = one["image"][:, :side]
    alone = build_detection_test_loader(inputs, mapper=lambda one: one)
    found = {}
    with torch.no_grad():
        for images in (1, 4):
            for batch in SameSizeBatches(alone, images):
                for one, result in zip(batch, model(batch), strict=True):
                    found[images, one["image_id"]] = result["instances"]
    assert len(found) == 2 * len(sides)
    for one in inputs:
        first, second = (found[images, one["image_id"]] for images in (1, 4))
        torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-5)
