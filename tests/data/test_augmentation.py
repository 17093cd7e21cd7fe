import copy
import random
import sys
import types

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import Boxes as D2Boxes
from detectron2.structures import BoxMode, pairwise_iou
from fvcore.transforms.transform import CropTransform, NoOpTransform
from PIL import Image

from paramap_d2.data import DatasetError, Expand, MinIoUCrop, SSDMapper, augmentation, build_train_mapper

needs_shapely = pytest.mark.skipif(
    augmentation.importlib.util.find_spec("shapely") is None, reason="polygons are cut by shapely"
)


def checkerboard(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, (x + y) % 256], axis=2).astype(np.uint8)


class TestExpand:
    def test_image_and_boxes_move_together(self):
        image, box = checkerboard(), np.array([[10.0, 20.0, 30.0, 50.0]])
        np.random.seed(1)
        seen = set()
        for _ in range(20):
            transform = Expand(prob=1.0, color=(1.2, 2.6, 3)).get_transform(image)
            big = transform.apply_image(image)
            x0, y0, x1, y1 = transform.apply_box(box)[0].astype(int)
            assert np.array_equal(big[y0:y1, x0:x1], image[20:50, 10:30])
            ratio = big.shape[1] / 80
            assert 1 <= ratio <= 4 and abs(big.shape[0] - 60 * ratio) <= 1
            outside = big.reshape(-1, 3)[~_inside(big.shape[:2], transform)]
            assert np.array_equal(np.unique(outside, axis=0), [[1, 3, 3]])  # rounded, not cut off
            seen.add(round(ratio, 1))
        assert len(seen) > 10

    def test_masks_and_float_images(self):
        transform = Expand(ratio=(2, 2), prob=1.0, color=(0.5, 0.25, 0.75)).get_transform(np.zeros((4, 6, 3)))
        mask = transform.apply_segmentation(np.ones((4, 6), np.uint8))
        assert mask.shape == (8, 12) and mask.sum() == 24
        image = transform.apply_image(np.zeros((4, 6, 3), np.float32))
        assert image.dtype == np.float32
        assert np.array_equal(np.unique(image[mask == 0], axis=0), [[0.5, 0.25, 0.75]])
        assert np.array_equal(transform.inverse().apply_image(image), np.zeros((4, 6, 3)))

    def test_probability_and_determinism(self):
        image = checkerboard()

        def draw():
            np.random.seed(3)
            return [Expand().get_transform(image) for _ in range(200)]

        first, second = draw(), draw()
        none = sum(isinstance(t, NoOpTransform) for t in first)
        assert 70 < none < 130
        sizes = [[t.apply_image(image).shape for t in ts] for ts in (first, second)]
        assert sizes[0] == sizes[1]

    @pytest.mark.parametrize("arguments", [{"ratio": (0.5, 2)}, {"ratio": (3, 2)}, {"prob": 1.5}, {"prob": -0.1}])
    def test_bad_arguments(self, arguments):
        with pytest.raises(ValueError, match=f"Expand: {next(iter(arguments))} must"):
            Expand(**arguments)


def _inside(shape, pad):
    mask = np.zeros(shape, bool)
    mask[pad.y0 : pad.y0 + pad.orig_h, pad.x0 : pad.x0 + pad.orig_w] = True
    return mask.reshape(-1)


class TestMinIoUCrop:
    def test_constraint(self):
        """Checked against what it promises, from the boxes and the crop alone."""
        image = np.zeros((100, 120, 3), np.uint8)
        boxes = np.array([[20.0, 20.0, 90.0, 80.0], [40.0, 30.0, 110.0, 90.0]], np.float32)
        np.random.seed(0)
        kinds = set()
        for _ in range(150):
            aug = MinIoUCrop()
            transform = aug.get_transform(image, boxes)
            kinds.add(type(transform))
            if isinstance(transform, NoOpTransform):
                continue
            t = transform
            assert 0 <= t.x0 and t.x0 + t.w <= 120 and 0 <= t.y0 and t.y0 + t.h <= 100
            assert t.w >= 0.3 * 120 - 1 and t.h >= 0.3 * 100 - 1
            crop = torch.tensor([[t.x0, t.y0, t.x0 + t.w, t.y0 + t.h]], dtype=torch.float32)
            iou = pairwise_iou(D2Boxes(crop), D2Boxes(torch.from_numpy(boxes)))
            assert iou.min() >= aug.mode - 0.03  # Detectron2 tests before it rounds to pixels
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - [t.x0, t.y0]
            assert ((centres >= 0) & (centres <= [t.w, t.h])).all(axis=1).any()
        assert kinds == {NoOpTransform, CropTransform}

    def test_without_objects_and_without_boxes(self):
        image = np.zeros((50, 50, 3), np.uint8)
        np.random.seed(0)
        crops = [MinIoUCrop().get_transform(image, np.zeros((0, 4), np.float32)) for _ in range(30)]
        assert any(isinstance(c, CropTransform) for c in crops)
        assert isinstance(MinIoUCrop().get_transform(image, None), NoOpTransform)

    def test_no_crop_to_be_found(self):
        """Two tiny objects in far corners: Detectron2's returns None in the end, which is no transform."""
        image = np.zeros((100, 100, 3), np.uint8)
        boxes = np.array([[0, 0, 1, 1], [99, 99, 100, 100]], np.float32)
        aug = MinIoUCrop(min_ious=(0.9,), mode_trials=2, crop_trials=2)
        aug.sample_mode = (0.9,)
        assert T.MinIoURandomCrop.get_transform(aug, image, boxes) is None
        assert isinstance(aug.get_transform(image, boxes), NoOpTransform)

    def test_a_crop_that_rounding_leaves_empty(self, monkeypatch):
        monkeypatch.setattr(T.MinIoURandomCrop, "get_transform", lambda *_: CropTransform(0, 0, 20, 20))
        image, box = np.zeros((50, 50, 3), np.uint8), np.array([[10, 10, 31, 20]], np.float32)
        assert isinstance(MinIoUCrop().get_transform(image, box), NoOpTransform)
        box[0, 2] = 30  # the centre on the edge
        assert isinstance(MinIoUCrop().get_transform(image, box), CropTransform)


@pytest.fixture
def record(tmp_path):
    """Three objects and a crowd; the first two have masks by polygon, and a keypoint each."""
    Image.fromarray(checkerboard(100, 120)).save(tmp_path / "a.png")

    def item(label, box, crowd=0):
        x0, y0, x1, y1 = box
        return {
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": label,
            "iscrowd": crowd,
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            "keypoints": [(x0 + x1) / 2, (y0 + y1) / 2, 2],
        }

    objects = [item(0, (5, 5, 35, 35)), item(1, (60, 40, 115, 95)), item(2, (80, 4, 100, 20))]
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 100,
        "width": 120,
        "image_id": 1,
        "annotations": [*objects, item(0, (0, 0, 120, 100), crowd=1)],
    }


def mapper_of(augmentations, **arguments):
    return SSDMapper(True, augmentations=augmentations, image_format="RGB", **arguments)


class Seen(T.Augmentation):
    """Keeps the boxes it is shown."""

    def get_transform(self, image, boxes):
        self.boxes = boxes
        return NoOpTransform()


def test_a_box_of_no_size_is_no_object_to_a_crop(record):
    for box in ((9, 9, 0, 5), (9, 9, 5, 0)):
        record["annotations"].append({**record["annotations"][0], "bbox": box})
    seen = Seen()
    mapper_of([seen])(record)
    assert len(seen.boxes) == 3


def test_augmentations_see_boxes_without_crowds_and_after_what_came_before(record):
    first, second = Seen(), Seen()
    mapper_of([first, CropTransform(50, 0, 70, 100), second])(record)
    expected = np.array([[5, 5, 35, 35], [60, 40, 115, 95], [80, 4, 100, 20]], np.float32)
    assert np.array_equal(first.boxes, expected)
    assert np.array_equal(second.boxes, expected - [50, 0, 50, 0])


def test_objects_whose_centre_is_cut_off_are_dropped(record):
    crop = CropTransform(0, 0, 88, 60)  # the centre of object 1, (87.5, 67.5), is below; of 2, (90, 12), beyond
    result = mapper_of([crop])(record)
    assert result["image"].shape == (3, 60, 88)
    assert result["instances"].gt_classes.tolist() == [0]
    crop = CropTransform(0, 0, 88, 68)
    result = mapper_of([crop])(record)
    assert result["instances"].gt_classes.tolist() == [0, 1]
    assert result["instances"].gt_boxes.tensor.tolist() == [[5, 5, 35, 35], [60, 40, 88, 68]]
    assert not result["instances"].has("gt_masks")


def test_the_stock_mapper_would_have_kept_them(record):
    """What this mapper is for: the stock one keeps what is left of an object, however little."""
    stock = DatasetMapper(True, augmentations=[CropTransform(0, 0, 88, 60)], image_format="RGB")
    assert stock(record)["instances"].gt_classes.tolist() == [0, 1, 2]


def test_nothing_left(record):
    result = mapper_of([CropTransform(40, 0, 15, 30)], use_instance_mask=False)(record)
    assert len(result["instances"]) == 0 and result["instances"].image_size == (30, 15)
    assert "annotations" not in result


def test_record_and_mapper_stay_as_they_were(record):
    import copy

    mapper, before = mapper_of([Expand(prob=1.0)]), copy.deepcopy(record)
    augmentations = mapper.augmentations
    mapper(record)
    assert record == before and mapper.augmentations is augmentations


def test_keypoints(record):
    crop = CropTransform(0, 0, 88, 68)
    for item in record["annotations"][:1]:
        item["keypoints"] = [100, 90, 2]  # cut off, though the object's centre is not
    instances = mapper_of([crop], use_keypoint=True)(record)["instances"]
    points = instances.gt_keypoints.tensor
    assert points[0, 0].tolist() == [0, 0, 0]
    assert points[1, 0].tolist() == [87.5, 67.5, 2]


def test_masks_by_run_length(record, monkeypatch):
    monkeypatch.setattr(augmentation.importlib.util, "find_spec", lambda name: object())
    for item in record["annotations"]:
        rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(item["segmentation"], 100, 120))
        item["segmentation"] = rle
    mapper = mapper_of(
        [Expand(ratio=(2, 2), prob=1.0), CropTransform(0, 0, 200, 180)],
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )
    np.random.seed(0)
    instances = mapper(record)["instances"]
    assert len(instances) >= 2
    for mask, box in zip(instances.gt_masks.tensor.numpy(), instances.gt_boxes.tensor.int().tolist(), strict=True):
        assert mask.shape == (180, 200)
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].all() and mask.sum() == (x1 - x0) * (y1 - y0)


@needs_shapely
def test_masks_by_polygon(record):
    mapper = mapper_of([CropTransform(0, 0, 88, 68)], use_instance_mask=True, recompute_boxes=True)
    instances = mapper(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[5, 5, 35, 35], [60, 40, 88, 68]]
    assert instances.gt_masks.area().tolist() == pytest.approx([900, 28 * 28])
    assert (
        len(
            mapper_of([CropTransform(40, 0, 15, 30)], use_instance_mask=True, recompute_boxes=True)(record)["instances"]
        )
        == 0
    )


def test_masks_without_shapely_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(augmentation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install 'paramap_d2.masks"):
        mapper_of([], use_instance_mask=True)
    mapper_of([], use_instance_mask=False)


def test_images_without_annotations(record):
    record["annotations"] = []
    np.random.seed(0)
    assert len(mapper_of(augmentation.ssd_augmentations("RGB"))(record)["instances"]) == 0
    del record["annotations"]
    assert "instances" not in mapper_of(augmentation.ssd_augmentations("RGB"))(record)


def config(**keys):
    cfg = get_cfg()
    cfg.INPUT.SSD_AUGMENTATION = True
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return cfg


def test_from_config(record):
    mapper = build_train_mapper(config(SSD_SIZE=96))
    assert type(mapper) is SSDMapper
    names = [type(a).__name__ for a in mapper.augmentations.augs]
    assert names[-4:] == ["Expand", "MinIoUCrop", "Resize", "RandomFlip"]
    assert mapper.augmentations.augs[-4].color == tuple(get_cfg().MODEL.PIXEL_MEAN)
    np.random.seed(0)
    random.seed(0)
    shapes = {tuple(mapper(record)["image"].shape) for _ in range(10)}
    assert shapes == {(3, 96, 96)}

    mapper = build_train_mapper(config())
    assert type(mapper.augmentations.augs[-2]) is T.ResizeShortestEdge
    assert all(min(mapper(record)["image"].shape[1:]) == 64 for _ in range(5))


def test_without_the_key_it_is_the_stock_mapper():
    assert type(build_train_mapper(get_cfg())) is DatasetMapper
    assert type(build_train_mapper(config(SSD_AUGMENTATION=False))) is DatasetMapper


def test_testing_is_as_ever(record):
    mapper = SSDMapper(config(SSD_SIZE=96), False)
    assert "annotations" not in mapper(record)
    assert [type(a) for a in mapper.augmentations.augs] == [T.ResizeShortestEdge]


def test_many_times_over(record):
    """The whole chain: boxes stay inside, centres' objects stay, the same seeds give the same result."""

    def run():
        np.random.seed(7)
        random.seed(7)
        mapper = build_train_mapper(config(SSD_SIZE=96))
        return [mapper(record) for _ in range(60)]

    first, second = run(), run()
    counts = set()
    for one, two in zip(first, second, strict=True):
        boxes = one["instances"].gt_boxes.tensor
        assert torch.equal(one["image"], two["image"]) and torch.equal(boxes, two["instances"].gt_boxes.tensor)
        assert len(boxes) >= 1 and boxes.min() >= 0 and boxes.max() <= 96
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        counts.add(len(boxes))
    assert counts == {1, 2, 3}


def test_the_object_is_where_its_box_says(record):
    """Paint the object white in a black image: after any chain without colours, white fills the box."""
    pixels = np.zeros((100, 120, 3), np.uint8)
    pixels[40:95, 60:115] = 255
    Image.fromarray(pixels).save(record["file_name"])
    record["annotations"] = record["annotations"][1:2]
    mapper = mapper_of([Expand(color=(0, 0, 0)), MinIoUCrop(), T.Resize((96, 96)), T.RandomFlip()])
    np.random.seed(5)
    for _ in range(40):
        result = mapper(record)
        (box,) = result["instances"].gt_boxes.tensor
        x0, y0, x1, y1 = box.round().int().tolist()
        white = result["image"][0] > 127
        inside = torch.zeros_like(white)
        inside[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True  # a pixel more, for the resizing
        assert not (white & ~inside).any()
        assert white[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()


def test_colors_by_detectron2_where_opencv_is(monkeypatch):
    monkeypatch.setattr(augmentation.importlib.util, "find_spec", lambda name: object())
    fake = types.ModuleType("detectron2.projects.point_rend")
    fake.ColorAugSSDTransform = lambda img_format: ("Detectron2's", img_format)
    monkeypatch.setitem(sys.modules, "detectron2.projects.point_rend", fake)
    assert augmentation.color_distortion("RGB") == [("Detectron2's", "RGB")]


def test_colors_without_opencv(monkeypatch, caplog):
    monkeypatch.setattr(augmentation.importlib.util, "find_spec", lambda name: None)
    augmentation.color_distortion("L")  # has no hue
    assert not caplog.text
    augmentation.color_distortion("BGR")
    assert "pip install 'paramap_d2[opencv]'" in caplog.text
    image = checkerboard()
    np.random.seed(0)
    means = []
    for _ in range(30):
        aug_input = T.AugInput(image.copy(), boxes=np.array([[1.0, 2.0, 3.0, 4.0]]))
        T.AugmentationList(augmentation.color_distortion("BGR"))(aug_input)
        assert aug_input.image.shape == image.shape and aug_input.image.dtype == np.uint8
        assert aug_input.boxes.tolist() == [[1, 2, 3, 4]]
        means.append(aug_input.image.mean())
    assert max(means) > image.mean() * 1.1 and min(means) < image.mean() * 0.9


def test_grey_images(tmp_path):
    """One channel throughout, also where the config has a mean for each of a backbone's three."""
    path = tmp_path / "grey.png"
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64).astype(np.uint8)).save(path)
    record = {"file_name": str(path), "width": 64, "height": 48, "annotations": [box_annotation()]}
    for means in ([103.5, 116.3, 123.7], [110.0]):
        augmentations = augmentation.ssd_augmentations("L", means, [T.Resize((32, 32))])
        np.random.seed(0)
        mapper = SSDMapper(True, augmentations=augmentations, image_format="L")
        sizes = {tuple(mapper(copy.deepcopy(record))["image"].shape) for _ in range(20)}
        assert sizes == {(1, 32, 32)}


def box_annotation():
    return {"bbox": [10, 10, 30, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}


def test_other_formats_are_refused():
    with pytest.raises(augmentation.DatasetError, match="INPUT.FORMAT BGR, RGB or L, not YUV-BT.601"):
        augmentation.color_distortion("YUV-BT.601")
