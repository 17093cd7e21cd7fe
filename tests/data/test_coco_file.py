"""Users' COCO files: each mistake is one line that names the file and the entry."""

import json

import pytest

from paramap_d2.data import DatasetError
from paramap_d2.data.coco_file import number, read_coco


def sound():
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 10}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 3, 3], "iscrowd": 0, "area": 9}],
        "categories": [{"id": 3, "name": "thing"}],
    }


def change(key, **values):
    """Sets keys of the first entry of a list; None of the values takes a key away."""

    def changed(coco):
        coco[key][0].update(values)
        for name in [name for name, value in values.items() if value is ...]:
            del coco[key][0][name]

    return changed


def add(key, entry):
    return lambda coco: coco[key].append(entry)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not JSON: Expecting value"),
        (b'{"images": [', "is not JSON"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark: save it as UTF-8 without one"),
        ('{"images": "Größe"}'.encode("latin-1"), "is not UTF-8 .byte 14."),
        (b"[]", "holds a list: expected an object"),
        (b"null", "holds a null"),
        (b"{}", "has no list 'images'"),
        (b'{"images": []}', "has no list 'categories'"),
        (b'{"images": [], "categories": null}', "has no list 'categories'"),
        (b'{"images": [], "categories": []}', "'categories' is empty"),
        (b'{"images": [], "categories": [], "annotations": null}', "'annotations' must be a list, not null"),
        (b'{"images": [3], "categories": []}', r"images\[0\] is a 3, not an object"),
    ],
)
def test_files(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetError, match=f"a.json.*{message}") as caught:
        read_coco(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path, message", [("none.json", "No such file"), (".", "Is a directory")])
def test_no_files(path, message, tmp_path):
    with pytest.raises(DatasetError, match=f"cannot read .*: {message}"):
        read_coco(tmp_path / path)


@pytest.mark.parametrize(
    "mistake, message",
    [
        (change("categories", name=...), r"categories\[0\] has the name null, not a text"),
        (change("categories", name=1), r"categories\[0\] has the name 1, not a text"),
        (change("categories", id=...), r"categories\[0\] has the id null, neither a number nor a text"),
        (add("categories", {"id": 3, "name": "x"}), r"categories\[0\] and categories\[1\] have the same id 3"),
        (add("categories", {"id": "4", "name": "x"}), "some ids of 'categories' are numbers and some are texts"),
        (change("images", id=[7]), r"images\[0\] has the id list"),
        (change("images", id=True), r"images\[0\] has the id true"),
        (change("images", file_name=...), r"images\[0\] has the file_name null"),
        (change("images", file_name=""), r'images\[0\] has the file_name ""'),
        (change("images", width=...), r"images\[0\] \(a.png\) has the width null"),
        (change("images", height="10"), r'images\[0\] \(a.png\) has the height "10"'),
        (change("images", height=0), r"images\[0\] \(a.png\) has the height 0"),
        (add("images", {"id": 7, "file_name": "b", "width": 1, "height": 1}), r"images\[0\] and images\[1\] have the"),
        (change("annotations", bbox=...), r"annotations\[0\] has no bbox"),
        (change("annotations", bbox=[]), r"annotations\[0\] has the bbox \[\], not four numbers"),
        (change("annotations", bbox=["1", 2, 3, 4]), r'has the bbox \["1", 2, 3, 4\], not four numbers'),
        (change("annotations", bbox=[1, 2, 3, float("nan")]), "has the bbox .*NaN"),
        (change("annotations", bbox=[1, 2, 3, None]), "has the bbox .*null"),
        (change("annotations", category_id=4), r"annotations\[0\] has the category_id 4, which 'categories' does not"),
        (change("annotations", category_id="3"), r'has the category_id "3"'),
        (change("annotations", category_id=[3]), "has the category_id list"),
        (change("annotations", image_id="7"), r'annotations\[0\] has the image_id "7", and the image\'s id is 7'),
        (change("annotations", image_id=...), r"annotations\[0\] has the image_id null"),
        (change("annotations", image_id=[7]), r"annotations\[0\] has the image_id list"),
        (change("annotations", image_id=8), "no annotation is of an image that the file lists"),
        (change("annotations", iscrowd="0"), 'has iscrowd "0", neither 0 nor 1'),
        (change("annotations", iscrowd=None), "has iscrowd null, neither 0 nor 1"),
        (change("annotations", keypoints=[1, 2]), "has keypoints .1, 2., not three numbers each"),
        (change("annotations", keypoints=[1, 2, "v"]), "has keypoints .*, not three numbers each"),
        (change("annotations", ignore=1), "has 'ignore', which Detectron2 does not know"),
        (change("annotations", segmentation=[[]]), "has a segmentation without a polygon of three points"),
        (change("annotations", segmentation=[1, 2, 3, 4, 5, 6]), "has a segmentation that is no list of polygons"),
        (change("annotations", segmentation={"size": [1, 1]}), "has a segmentation without counts"),
        (
            lambda coco: coco["annotations"].append(dict(coco["annotations"][0])),
            r"annotations\[0\] and annotations\[1\] have the same id 1",
        ),
        (change("annotations", id=...), r"annotations\[0\] has the id null"),
    ],
)
def test_entries(mistake, message, tmp_path):
    coco = sound()
    mistake(coco)
    (tmp_path / "a.json").write_text(json.dumps(coco))
    with pytest.raises(DatasetError, match=f"a.json: .*{message}") as caught:
        read_coco(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        lambda coco: None,
        change("annotations", area=..., iscrowd=...),
        change("annotations", iscrowd=True, segmentation=[]),
        change("annotations", keypoints=None),
        change("annotations", keypoints=[]),
        change("images", width=10.0),
        change("annotations", segmentation=[[1, 1], [1, 1, 3, 1, 3, 3]]),
        add("annotations", {"id": 2, "image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]}),  # the image was taken out
        lambda coco: coco.pop("annotations"),
    ],
)
def test_what_does_no_harm(odd, tmp_path):
    coco = sound()
    odd(coco)
    (tmp_path / "a.json").write_text(json.dumps(coco))
    assert read_coco(tmp_path / "a.json") == coco
    assert len(number(coco).coco.get("annotations", [0])) == 1  # none of another image


def test_objects_without_keypoints_among_others():
    """pycocotools reads keypoints of every object of a data set that has some."""
    coco = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    item = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    posed = {**item, "id": 1, "keypoints": [1, 1, 2, 0, 0, 0]}
    found = number({**coco, "annotations": [posed, {**item, "id": 2}]}).coco["annotations"]
    assert [(a["keypoints"], a["num_keypoints"]) for a in found] == [([1, 1, 2, 0, 0, 0], 1), ([0] * 6, 0)]
    assert "keypoints" not in number({**coco, "annotations": [{**item, "id": 2}]}).coco["annotations"][0]
