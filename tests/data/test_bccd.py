import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from paramap_d2.data import DatasetError, check_datasets
from paramap_d2.data.catalog import warn_of_empty_boxes

from .voc_form import write_voc


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two images; the first has two invalid boxes, one without width and one turned about."""
    write_voc(
        tmp_path / "BCCD",
        {
            "a": [("RBC", 11, 21, 60, 80), ("WBC", 504, 337, 504, 400), ("Platelets", 30, 50, 40, 45)],
            "b": [("Platelets", 1, 1, 640, 480), ("RBC", 5, 5, 6, 6)],
        },
        {"train": ["a", "b"], "val": ["b", "a"], "trainval": ["a", "b"], "test": ["b", "a"]},
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    warn_of_empty_boxes.cache_clear()
    return tmp_path


def test_records(root):
    first, second = DatasetCatalog.get("bccd_train")
    assert first["image_id"] == "a" and type(first["image_id"]) is str
    assert (first["width"], first["height"]) == (640, 480)
    assert [(item["category_id"], item["bbox"]) for item in first["annotations"]] == [(0, [10, 20, 60, 80])]
    # xmin, ymin count from 1: the whole image, and the smallest box that has width and height
    assert [(item["category_id"], item["bbox"]) for item in second["annotations"]] == [
        (2, [0, 0, 640, 480]),
        (0, [4, 4, 6, 6]),
    ]


def test_metadata_is_what_the_evaluators_need(root):
    metadata = MetadataCatalog.get("bccd_val")
    assert metadata.thing_classes == ["RBC", "WBC", "Platelets"]
    assert (metadata.dirname, metadata.split, metadata.year) == (str(root / "BCCD"), "val", 2012)
    assert metadata.evaluator_type == "pascal_voc"


def test_one_warning_a_process_names_the_empty_boxes(root, caplog):
    with caplog.at_level(logging.WARNING, "paramap_d2"):
        for _ in range(2):
            DatasetCatalog.get("bccd_test")
    (record,) = caplog.records
    assert record.getMessage() == (
        "data set 'bccd_test': left out 2 boxes without width or height: "
        "a WBC (504, 337, 504, 400); a Platelets (30, 50, 40, 45)"
    )


def test_missing_folder_is_one_line_that_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for use in (DatasetCatalog.get, check_datasets):
        with pytest.raises(DatasetError) as caught:
            use("bccd_train")
        message = str(caught.value)
        assert "\n" not in message
        for part in ("bccd_train", str(tmp_path / "BCCD"), "DETECTRON2_DATASETS", "Shenggan/BCCD_Dataset"):
            assert part in message


def test_missing_image_list(root):
    (root / "BCCD/ImageSets/Main/val.txt").unlink()
    for use in (DatasetCatalog.get, check_datasets):
        with pytest.raises(DatasetError, match="val.txt, which does not exist"):
            use("bccd_val")
    check_datasets("bccd_train")
