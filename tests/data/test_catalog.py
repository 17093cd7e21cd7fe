import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from paramap_d2.data import DatasetError, check_datasets, coco, datasets_root, shapes

from .absent import make_absent


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_name_lists_near_ones():
    with pytest.raises(DatasetError) as caught:
        check_datasets(["bcdd_train"])
    assert "'bcdd_train' is not registered" in one_line(caught) and "bccd_train" in str(caught.value)


def test_unknown_name_near_to_none():
    with pytest.raises(DatasetError, match="'q' is not registered: Name .* PARAMAP_DATASETS .* --import"):
        check_datasets("q")


@pytest.mark.parametrize("name", ["coco_2017_val", "voc_2007_test", "coco_2017_train_search"])
def test_registered_but_not_there(name, tmp_path, monkeypatch):
    make_absent(name, tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match=f"'{name}' needs .* does not exist: set DETECTRON2_DATASETS"):
        check_datasets(name)


def test_drawn_by_the_check(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(shapes, "SPLITS", {"train": 2, "val": 2})
    check_datasets(("shapes_train", "shapes_val"))
    folder = tmp_path / "shapes" / shapes.VERSION
    (folder / "val.json").unlink()
    with pytest.raises(DatasetError, match=r"needs .*val\.json, which does not exist"):
        check_datasets(("shapes_train", "shapes_val"))


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/here")
    assert datasets_root() == tmp_path / "here"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(datasets_root()) == "datasets"


def test_cocos_search_split_is_registered_like_the_whole():
    whole = MetadataCatalog.get("coco_2017_train")
    for part in ("search", "searchval"):
        metadata = MetadataCatalog.get(f"coco_2017_train_{part}")
        assert metadata.json_file == whole.json_file.replace("train2017.json", f"train2017_{part}.json")
        assert metadata.image_root == whole.image_root
        assert metadata.thing_classes == whole.thing_classes and len(metadata.thing_classes) == 80
        assert metadata.evaluator_type == "coco"


@pytest.fixture
def listed(tmp_path):
    """A file of one data set, with one image and one box, and what it took out of the catalogs afterwards."""
    (tmp_path / "images").mkdir()
    whole = {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 10}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 3, 3], "iscrowd": 0, "area": 9}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(whole))
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"my_own_data": {"json_file": "mine.json", "image_root": "images"}}))
    yield file
    if "my_own_data" in DatasetCatalog:
        DatasetCatalog.remove("my_own_data")
        MetadataCatalog.remove("my_own_data")


def test_data_sets_of_the_users_own(listed):
    assert coco.register_from_file(listed) == ["my_own_data"]
    assert coco.register_from_file(listed) == ["my_own_data"]  # again, as in a second import
    check_datasets("my_own_data")
    (record,) = DatasetCatalog.get("my_own_data")
    assert record["file_name"] == str(listed.parent / "images" / "a.png")
    (listed.parent / "mine.json").unlink()
    with pytest.raises(DatasetError, match="mine.json"):
        check_datasets("my_own_data")


def test_named_by_the_environment_on_import(listed, monkeypatch, caplog):
    monkeypatch.setenv(coco.USER_DATASETS, str(listed))
    coco._register()
    assert "my_own_data" in DatasetCatalog
    monkeypatch.setenv(coco.USER_DATASETS, str(listed.parent / "none.json"))
    coco._register()  # an import does not fail
    assert "PARAMAP_DATASETS: cannot read" in caplog.text
    with pytest.raises(
        DatasetError, match="'my_other' is not registered, since PARAMAP_DATASETS: cannot read .*none.json"
    ):
        check_datasets("my_other")
    monkeypatch.delenv(coco.USER_DATASETS)
    coco._register()
    with pytest.raises(DatasetError, match="'my_other' is not registered: "):
        check_datasets("my_other")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot read the list of data sets"),
        ("[]", "expected an object of data sets, found list"),
        ('{"x": {"json_file": "a"}}', "'x' needs exactly the keys json_file and image_root"),
        ('{"shapes_val": {"json_file": "a", "image_root": "b"}}', "'shapes_val' is already registered"),
    ],
)
def test_bad_lists(tmp_path, content, message, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(shapes, "SPLITS", {"val": 1})
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        coco.register_from_file(tmp_path / "list.json")
    one_line(caught)
