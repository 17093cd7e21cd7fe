"""What a check of data finds before anything is trained."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from paramap_d2.config import ConfigError, check_config, read_config
from paramap_d2.config.checks import check_data
from paramap_d2.data import DatasetError, check_content, checks, digest
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file

from .coco_form import registered
from .voc_form import write_voc


def coco(count=2, size=(40, 30), classes=("cat", "dog")):
    return {
        "images": [{"id": k, "file_name": f"{k}.png", "width": size[0], "height": size[1]} for k in range(count)],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0, "area": 81}
            for k in range(count)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
    }


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(2):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def test_sound_data(images):
    with registered(coco(), images) as name:
        (found,) = check_content([name, name])
        assert (found.name, found.classes, found.objects) == (name, ("cat", "dog"), 2)


def cut(path, kind):
    Image.open(path).save(path.with_suffix(".tmp"), kind)
    path.write_bytes(path.with_suffix(".tmp").read_bytes()[:-300])


def turned(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(path).save(path, "PNG", exif=exif)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda path: path.unlink(), "image .*1.png does not exist"),
        (lambda path: path.write_bytes(b""), "1.png is not an image that can be read"),
        (lambda path: path.write_text("<html>not found</html>"), "1.png is not an image that can be read"),
        (lambda path: cut(path, "PNG"), "image .*1.png cannot be read: "),
        (lambda path: cut(path, "JPEG"), "image .*1.png cannot be read: .*truncated"),
        (lambda path: cut(path, "TIFF"), "image .*1.png cannot be read: "),
        (lambda path: Image.new("RGB", (30, 40)).save(path), "is 30 x 40, and annotated as 40 x 30$"),
        (turned, "is 30 x 40, and annotated as 40 x 30: its Exif data turn it"),
        (
            lambda path: Image.fromarray(np.zeros((30, 40), np.uint16)).save(path),
            "has more than 8 bits a channel .mode I;16.: convert it to 8 bits",
        ),
    ],
)
def test_images_that_cannot_be_used(images, break_it, message):
    break_it(images / "1.png")
    with registered(coco(), images) as name:
        with pytest.raises(DatasetError, match=f"data set 'of_a_user': .*{message}") as caught:
            check_content([name])
        assert "\n" not in str(caught.value)
        check_content([name], images=False)


def test_what_pillow_reads_is_sound(images):
    """A picture turned by Exif and annotated so, JPEG with something after its end, grey, with a palette."""
    turned(images / "0.png")
    file = images / "1.png"
    Image.open(file).convert("L").save(file, "JPEG")
    file.write_bytes(file.read_bytes() + b"trailing")
    content = coco()
    content["images"][0].update(width=30, height=40)
    with registered(content, images) as name:
        check_content([name])
        Image.open(file).convert("P").save(file, "PNG")
        check_content([name])


def test_large_data_are_sampled(images, monkeypatch):
    opened = []
    monkeypatch.setattr(checks, "OPENED", 3)
    monkeypatch.setattr(checks, "check_image", lambda path, *size: opened.append(path))
    for k in range(2, 10):
        (images / f"{k}.png").write_bytes(b"")
    with registered(coco(10), images) as name:
        check_content([name])
        assert [path[-5:] for path in opened] == ["0.png", "4.png", "8.png"]
        (images / "7.png").unlink()
        with pytest.raises(DatasetError, match="7.png does not exist"):
            check_content([name])


def test_classes_that_do_not_agree(images):
    with registered(coco(), images, "one") as one, registered(coco(classes=("dog", "cat")), images, "two") as two:
        with pytest.raises(
            ConfigError, match="data sets one and two do not .* order: class 0 is 'cat' in one and 'dog' in two"
        ):
            check_data([one], [two], ("NUM_CLASSES", 2))
        check_data([one], [one], ("NUM_CLASSES", 2))
        with pytest.raises(ConfigError, match=r"one has 2 classes, and the config's detector 3 \(NUM_CLASSES\)"):
            check_data([one], [], ("NUM_CLASSES", 3))
    with registered(coco(), images, "one") as one, registered(coco(classes=("cat",)), images, "two") as two:
        with pytest.raises(ConfigError, match="class 1 is 'dog' in one and not there in two"):
            check_data([one], [two], None)


def test_nothing_to_learn(images):
    content = coco()
    content["annotations"] = [{**a, "iscrowd": 1} for a in content["annotations"]]
    with registered(content, images) as name:
        with pytest.raises(ConfigError, match="of_a_user has no object to learn from"):
            check_data([name], [], ("NUM_CLASSES", 2))
        check_data([], [name], ("NUM_CLASSES", 2))


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([[1, 1, 39, 29], [0, 0, 40, 30]], None),
        ([[1, 1, 39.5, 29.5]], None),  # by a pixel, as many tools round
        ([[20, 10, 30, 20], [1, 1, 9, 9]], "1 of 2 boxes reach beyond their image: bbox is [x, y, width"),
        ([[1, 1, 9, 9]] * 9 + [[50, 1, 9, 9]], "1 boxes lie outside of their image: annotation 10 of image 0"),
        ([[1, 1, 9, 9]] * 9 + [[-9, 1, 9, 9]], "1 boxes lie outside of their image: annotation 10 of image 0"),
    ],
)
def test_boxes_that_cannot_be_meant_so_are_told(images, boxes, message, caplog):
    content = coco(count=1)
    (first,) = content["annotations"]
    content["annotations"] = [{**first, "id": k, "bbox": box} for k, box in enumerate(boxes, start=1)]
    with registered(content, images) as name:
        assert check_content([name])[0].objects == len(boxes)
    assert message in caplog.text if message else not caplog.records


def test_categories_of_one_name_are_told(images, caplog):
    with registered(coco(classes=("cat", "dog", "cat")), images) as name:
        assert check_content([name])[0].classes == ("cat", "dog", "cat")
    assert f"'{name}': several categories are called cat, and each is a class" in caplog.text


def test_no_image(images):
    with registered(coco(count=0), images) as name:
        with pytest.raises(DatasetError, match=f"'{name}' has no image: .*json lists none"):
            check_data([], [name], ("NUM_CLASSES", 2))
    DatasetCatalog.register("by_hand", lambda: [])
    try:
        with pytest.raises(DatasetError, match="'by_hand' has no image"):
            check_content(["by_hand"])
    finally:
        DatasetCatalog.remove("by_hand")


def test_objects_without_a_mask_where_masks_are_trained(images):
    content = coco()
    first, *others = content["annotations"]
    content["annotations"] = [
        {**first, "segmentation": [[0, 0, 9, 0, 9, 9]]},
        *({**a, "segmentation": []} for a in others),
    ]
    with registered(content, images) as name:
        check_data([name], [], ("NUM_CLASSES", 2))
        check_data([], [name], ("NUM_CLASSES", 2), masks=True)
        with pytest.raises(ConfigError, match=f"no mask .* for {len(others)} of its {len(others) + 1} objects"):
            check_data([name], [], ("NUM_CLASSES", 2), masks=True)


def test_evaluators_that_there_are_not(images):
    with registered(coco(), images) as name:
        MetadataCatalog.remove(name)
        MetadataCatalog.get(name).set(
            json_file=str(images / f"{name}.json"), image_root=str(images), evaluator_type="lvis"
        )
        check_data([name], [], ("NUM_CLASSES", 2))
        with pytest.raises(ConfigError, match="evaluator type lvis, not one of coco, pascal_voc"):
            check_data([], [name], ("NUM_CLASSES", 2))


def test_data_in_voc_form_and_of_a_function(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_voc(tmp_path / "BCCD", {"a": [("RBC", 11, 21, 60, 80), ("WBC", 4, 5, 4, 9)]}, {"val": ["a"]})
    assert check_content(["bccd_val"])[0].objects == 1
    Image.new("RGB", (64, 48)).save(tmp_path / "BCCD/JPEGImages/a.jpg")
    with pytest.raises(DatasetError, match="'bccd_val': image .*a.jpg is 64 x 48, and annotated as 640 x 480"):
        check_content(["bccd_val"])
    record = {"file_name": str(tmp_path / "x.png"), "width": 4, "height": 4, "annotations": [{"iscrowd": 0}]}
    DatasetCatalog.register("by_hand", lambda: [record])
    try:
        with pytest.raises(DatasetError, match="x.png does not exist"):
            check_content(["by_hand"])
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
        (checked,) = check_content(["by_hand"])
        assert (checked.classes, checked.objects, checked.masks, checked.keypoints) == (None, 1, 0, {0})
    finally:
        DatasetCatalog.remove("by_hand")


@pytest.mark.parametrize(
    "opts, message",
    [
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED is for R-CNNs alone, not ParamAPRetinaNet"),
        (["INPUT.SSD_AUGMENTATION", "True", "INPUT.FORMAT", "YUV-BT.601"], "INPUT.FORMAT BGR, RGB or L"),
        (
            ["SOLVER.REFERENCE_WORLD_SIZE", "3"],
            "IMS_PER_BATCH 2 is no multiple of SOLVER.REFERENCE_WORLD_SIZE 3",
        ),
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS is nowhere.pth, which does not exist"),
    ],
)
def test_keys_that_do_not_go_together(opts, message, tiny):
    with pytest.raises(UserError, match=message):
        check_config(read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), [*tiny, *opts]))


def test_images_are_checked_where_the_config_says(images):
    with registered(coco(), images) as name:
        (images / "1.png").unlink()
        data = ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()", "MODEL.RETINANET.NUM_CLASSES", "2"]
        data += ["MODEL.PARAM_AP.CALIBRATE_ON", ""]
        file = get_config_file("shapes_retinanet_R_18_FPN.yaml")
        with pytest.raises(DatasetError, match="1.png does not exist"):
            check_config(read_config(file, data))
        check_config(read_config(file, [*data, "INPUT.CHECK_IMAGES", "False"]))
        (images / f"{name}.json").write_text(json.dumps(coco())[:-9])
        with pytest.raises(DatasetError, match="is not JSON"):
            check_config(read_config(file, [*data, "INPUT.CHECK_IMAGES", "False"]))


@pytest.mark.parametrize("size, said", [(0.4, True), (1.5, False)])
def test_boxes_as_parts_of_an_image_are_told(images, caplog, size, said):
    content = coco()
    for item in content["annotations"]:
        item["bbox"] = [0.1, 0.2, size, size]
    with registered(content, images) as name:
        check_content([name])
    assert ("within their image's first pixel: bbox is in pixels" in caplog.text) == said


def test_a_file_of_another_form_is_for_whoever_registered_it(images):
    """LVIS's, say, has neither file names nor plain categories; Detectron2 reads it by itself."""
    (images / "lvis.json").write_text(json.dumps({"images": [{"id": 1, "coco_url": "http://x/0.png"}]}))
    record = {"file_name": str(images / "0.png"), "width": 40, "height": 30, "image_id": 1}
    DatasetCatalog.register("other_form", lambda: [{**record, "annotations": [{"category_id": 0}]}])
    places = {"json_file": str(images / "lvis.json"), "image_root": str(images), "evaluator_type": "lvis"}
    MetadataCatalog.get("other_form").set(thing_classes=["cat"], **places)
    try:
        (checked,) = check_content(["other_form"])
        assert (checked.classes, checked.objects) == (("cat",), 1)
        assert len(digest("other_form")["other_form"]) == 64
        check_data(["other_form"], ["other_form"], ("CLASSES", 1), own_evaluator=True)
        with pytest.raises(ConfigError, match="evaluator type lvis"):
            check_data(["other_form"], ["other_form"], ("CLASSES", 1))
    finally:
        DatasetCatalog.remove("other_form")
        MetadataCatalog.remove("other_form")
