"""VOC data as labelling tools write them."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances, register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from paramap_d2.data import DatasetError, VOCEvaluator, build_evaluator, coco
from paramap_d2.data.voc import list_images, load_voc, read_annotations

from .voc_form import write_voc

CLASSES = ["cow", "dog"]
TWO = {"a b": [("cow", 11, 21, 60, 80)], "c": [("dog", 1, 1, 640, 480), ("cow", 5, 5, 300, 300)]}


@pytest.fixture
def folder(tmp_path):
    write_voc(tmp_path / "VOC", TWO, {"train": ["a b", "c"]})
    return tmp_path / "VOC"


def lines(folder, text):
    (folder / "ImageSets/Main/train.txt").write_text(text)
    return [image.name for image in list_images(folder, "train")]


def annotate(folder, objects, size="", name="c"):
    (folder / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def one(box="<xmin>1.4</xmin><ymin>2</ymin><xmax>30.5</xmax><ymax>40</ymax>", name="cow", more=""):
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_is_detectron2s_where_that_reads_it(folder):
    lines(folder, "c\n" * 2)
    assert load_voc("x", folder, "train", CLASSES) == [
        {**record, "image_id": str(record["image_id"]), "file_name": str(record["file_name"])}
        for record in load_voc_instances(str(folder), "train", CLASSES)
    ]


@pytest.mark.parametrize(
    "text, names",
    [
        ("a b\nc\n", ["a b", "c"]),
        ("c", ["c"]),  # a single image
        ("c 1\na b  -1\n\n", ["c", "a b"]),  # a class's list
        ("c.jpg\r\na b.JPG 0\r\n", ["c", "a b"]),
        ("\ufeffc\n", ["c"]),
    ],
)
def test_lists_of_images(folder, text, names):
    assert lines(folder, text) == names


def test_a_name_that_ends_like_a_flag(folder):
    (folder / "Annotations/c 1.xml").write_text("<annotation/>")
    Image.new("RGB", (4, 4)).save(folder / "JPEGImages/c 1.png")
    assert lines(folder, "c 1\nc -1") == ["c 1", "c"]


def test_what_labelling_tools_leave_out(folder):
    annotate(folder, one() + one(name=" COW ") + one(name="dog", more="<difficult>1</difficult>"))
    (image,) = [image for image in list_images(folder, "train") if image.name == "c"]
    found = read_annotations(image)
    assert (found.width, found.height) == (640, 480)  # the file's own
    assert [item.difficult for item in found.objects] == [False, False, True]
    assert found.objects[0].box == (1.4, 2, 30.5, 40)
    record = load_voc("x", folder, "train", CLASSES)[1]
    assert [item["category_id"] for item in record["annotations"]] == [0, 0, 1]
    assert record["annotations"][0]["bbox"] == pytest.approx([0.4, 1, 30.5, 40])


def test_two_classes_that_differ_in_case_alone(folder):
    annotate(folder, one(name="cow") + one(name="Cow"))
    record = load_voc("x", folder, "train", ["Cow", "cow", "dog"])[1]
    assert [item["category_id"] for item in record["annotations"]] == [1, 0]
    with pytest.raises(DatasetError, match="class 'cow', not one of Cow, COW"):
        load_voc("x", folder, "train", ["Cow", "COW", "dog"])


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda f: annotate(f, one(name="cat")), r"c\.xml has an object of class 'cat', not one of cow, dog"),
        (lambda f: annotate(f, one(name="")), r"c\.xml, object 1 has no name"),
        (lambda f: annotate(f, one(box="<xmin>1</xmin>")), r"c\.xml, object 1 \(cow\): bndbox/ymin is None"),
        (lambda f: annotate(f, one(box="<xmin>nan</xmin>")), r"bndbox/xmin is 'nan', not a number"),
        (lambda f: annotate(f, one(more="<difficult>2</difficult>")), r"difficult is '2', neither 0 nor 1"),
        (lambda f: annotate(f, "<object>"), r"cannot read .*c\.xml: mismatched tag"),
        (lambda f: annotate(f, "", "<size><width>x</width></size>"), r"c\.xml: the image's size is x x 0"),
        (lambda f: lines(f, "c\nd\n"), r"train\.txt, line 2: .*Annotations has no file d\.xml"),
        (lambda f: (f / "JPEGImages/c.jpg").unlink(), r"train\.txt, line 2: .*JPEGImages has no image of the name c"),
        (lambda f: lines(f, "\n"), r"train\.txt names no image"),
        (lambda f: (f / "ImageSets/Main/train.txt").unlink(), r"train\.txt, which does not exist"),
        (lambda f: (f / "ImageSets/Main/train.txt").write_bytes(b"\xff"), r"cannot read .*train\.txt"),
    ],
)
def test_what_cannot_be_is_one_line(folder, break_it, message):
    with pytest.raises(DatasetError, match=message) as caught:
        break_it(folder)
        load_voc("x", folder, "train", CLASSES)
    assert "\n" not in str(caught.value)


@pytest.fixture
def of_a_user(tmp_path, folder):
    """The folder in a list of data sets, as a user names it."""
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"my_voc": {"dirname": "VOC", "split": "train", "classes": CLASSES}}))
    assert coco.register_from_file(file) == coco.register_from_file(file) == ["my_voc"]
    yield folder
    DatasetCatalog.remove("my_voc")
    MetadataCatalog.remove("my_voc")


def predict(evaluator, name, change=lambda boxes: boxes, score=0.9):
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        found = Instances((record["height"], record["width"]))
        boxes = np.array([item["bbox"] for item in record["annotations"]], np.float32).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.tensor(change(boxes)))
        found.scores = torch.full((len(boxes),), score)
        found.pred_classes = torch.tensor([item["category_id"] for item in record["annotations"]], dtype=torch.int64)
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()


def test_folders_of_the_users_own_have_both_figures(of_a_user):
    annotate(of_a_user, one() + one(name="Dog"))
    results = predict(build_evaluator("my_voc", distributed=False), "my_voc")
    assert results["bbox"]["AP"] == pytest.approx(100) and results["voc"]["AP"] == pytest.approx(100)


def test_a_class_that_the_data_lacks_is_left_out_of_the_mean(of_a_user, caplog):
    lines(of_a_user, "a b\n")
    results = predict(VOCEvaluator("my_voc", distributed=False), "my_voc")
    assert results["voc"] == {"AP": 100.0, "AP50": 100.0, "AP75": 100.0}
    assert "'my_voc' has no dog: left out of VOC's mean" in caplog.text
    annotate(of_a_user, "", name="a b")
    assert np.isnan(VOCEvaluator("my_voc", distributed=False).evaluate()["voc"]["AP"])


def test_scores_that_are_close(of_a_user):
    """Detectron2 rounds scores to a thousandth, so that a worse one may come first."""
    lines(of_a_user, "c\n")
    annotate(of_a_user, one("<xmin>1</xmin><ymin>1</ymin><xmax>100</xmax><ymax>100</ymax>"))
    evaluator = VOCEvaluator("my_voc", distributed=False)
    found = Instances((480, 640))
    found.pred_boxes = Boxes(torch.tensor([[300.0, 300, 400, 400], [0, 0, 100, 100]]))
    found.scores = torch.tensor([0.0101, 0.0102])
    found.pred_classes = torch.tensor([0, 0])
    evaluator.process([{"image_id": "c"}], [{"instances": found}])
    assert evaluator.evaluate()["voc"]["AP50"] == 100


def test_images_of_other_data(of_a_user):
    with pytest.raises(DatasetError, match="given image 'z', which data set 'my_voc' lacks"):
        VOCEvaluator("my_voc", distributed=False).process([{"image_id": "z"}], [{}])


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_detectron2s_where_those_are_right(tmp_path, seed, year):
    """Integer boxes, every class there, all scores different and multiples of 0.001."""
    rng = np.random.default_rng(seed)
    objects = {}
    for k in range(4):
        corners = rng.integers(1, 200, (5, 2))
        ends = corners + rng.integers(5, 200, (5, 2))
        objects[str(k)] = [
            (CLASSES[j % 2], *corners[j].tolist(), *ends[j].tolist(), int(j > 1 and rng.random() < 0.3))
            for j in range(5)
        ]
    write_voc(tmp_path / "VOC", objects, {"train": list(objects)})
    name = f"compared_{year}_{seed}"
    register_pascal_voc(name, str(tmp_path / "VOC"), "train", year, CLASSES)
    try:
        scores = iter(rng.permutation(999)[: 4 * 15] / 1000)
        outputs = []
        for record in DatasetCatalog.get(name):
            boxes = np.tile(np.array([item["bbox"] for item in record["annotations"]]), (3, 1))
            boxes = np.rint(boxes + rng.normal(0, 8, boxes.shape))
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
            found = Instances((480, 640))
            found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            found.scores = torch.tensor([next(scores) for _ in boxes])
            found.pred_classes = torch.tensor([item["category_id"] for item in record["annotations"]] * 3)
            outputs.append(([{"image_id": record["image_id"]}], [{"instances": found}]))
        figures = []
        for evaluator in (PascalVOCDetectionEvaluator(name), VOCEvaluator(name)):
            evaluator.reset()
            for pair in outputs:
                evaluator.process(*pair)
            figures.append(evaluator.evaluate())
        assert figures[1]["voc"] == pytest.approx(figures[0]["bbox"])
        assert 0 < figures[1]["voc"]["AP"] < figures[1]["voc"]["AP50"] < 100
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
