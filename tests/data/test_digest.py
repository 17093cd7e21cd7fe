import json
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from paramap_d2.data import DatasetError, digest
from paramap_d2.data.digest import _digest

from .absent import make_absent
from .voc_form import write_voc


@pytest.fixture
def registered():
    """Registers COCO files under names that are forgotten again."""
    names = []

    def register(name, folder):
        names.append(name)
        register_coco_instances(name, {}, str(folder / "a.json"), str(folder / "images"))

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write(folder, label="thing", pixels=b"1234"):
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "images" / "deep" / "x.png").write_bytes(pixels)
    coco = {
        "images": [{"id": 1, "file_name": "deep/x.png", "width": 4, "height": 4}],
        "annotations": [],
        "categories": [{"id": 1, "name": label}],
    }
    (folder / "a.json").write_text(json.dumps(coco))
    return folder


def test_follows_the_content_and_not_the_place(tmp_path, registered):
    registered("first", write(tmp_path / "a"))
    registered("moved", write(tmp_path / "b"))
    registered("other_label", write(tmp_path / "c", label="thong"))
    registered("other_image", write(tmp_path / "d", pixels=b"12345"))
    found = digest(["first", "moved", "other_label", "other_image"])
    assert len(found["first"]) == 64 and int(found["first"], 16)
    assert found["first"] == found["moved"] == digest("moved")["moved"]
    assert len(set(found.values())) == 3
    (tmp_path / "e" / "images").mkdir(parents=True)
    shutil.copy(tmp_path / "a" / "a.json", tmp_path / "e" / "a.json")
    registered("no_image", tmp_path / "e")
    assert digest("no_image")["no_image"] not in found.values()


def test_data_in_voc_form(tmp_path, monkeypatch):
    def of(objects, images):
        shutil.rmtree(tmp_path / "BCCD", ignore_errors=True)
        write_voc(tmp_path / "BCCD", objects, {"val": images})
        _digest.cache_clear()
        return digest("bccd_val")["bccd_val"]

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    objects = {"a": [("RBC", 11, 21, 60, 80)], "b": []}
    first = of(objects, ["a", "b"])
    assert first == of(objects, ["a", "b"])
    assert first != of(objects, ["a"])
    assert first != of({**objects, "b": [("RBC", 1, 1, 9, 9)]}, ["a", "b"])


def test_data_of_a_function():
    DatasetCatalog.register("by_hand", lambda: [{"file_name": "/x/a.png", "image_id": 1, "annotations": content}])
    try:
        content = [{"bbox": [1, 2, 3, 4]}]
        first = digest("by_hand")
        content = [{"bbox": [1, 2, 3, 5]}]
        assert digest("by_hand") == first  # read once in a process
        _digest.cache_clear()
        assert digest("by_hand") != first
    finally:
        DatasetCatalog.remove("by_hand")


def test_data_that_is_not_there(tmp_path, monkeypatch):
    make_absent("coco_2017_val", tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match="'coco_2017_val' needs"):
        digest("coco_2017_val")


def test_masks_that_are_arrays_are_part_of_the_content():
    masks = [np.zeros((64, 64), bool) for _ in range(3)]
    masks[1][30, 30] = True  # in the middle, which numpy leaves out of an array as text
    try:
        for k, mask in enumerate(masks):
            item = {"bbox": [0, 0, 4, 4], "category_id": 0, "segmentation": mask}
            DatasetCatalog.register(f"masks_{k}", lambda item=item: [{"image_id": 1, "annotations": [item]}])
        found = digest([f"masks_{k}" for k in range(3)])
        assert found["masks_0"] == found["masks_2"] != found["masks_1"]
    finally:
        for k in range(3):
            DatasetCatalog.remove(f"masks_{k}")
