import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramap_d2.data.split import SplitError, split_coco, split_file


def make(classes_of_images, crowd=()):
    """A COCO dict; `classes_of_images` is one list of category ids for each image."""
    box = [1, 2, 3, 4]
    annotations = [
        {"id": 100 * k + n + 1, "image_id": k, "category_id": c, "bbox": box, "iscrowd": int((k, c) in crowd)}
        for k, classes in enumerate(classes_of_images)
        for n, c in enumerate(classes)
    ]
    ids = sorted({item["category_id"] for item in annotations})
    return {
        "info": {"year": 2017},
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 8, "height": 8} for k in range(len(classes_of_images))],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in ids],
    }


def images_of(part, category):
    return {item["image_id"] for item in part["annotations"] if item["category_id"] == category and not item["iscrowd"]}


@given(
    st.lists(st.lists(st.integers(1, 6), max_size=4), min_size=2, max_size=40),
    st.one_of(st.floats(0.05, 0.95), st.integers(1, 39)),
    st.integers(0, 5),
)
@settings(max_examples=200)
def test_whatever_comes_out_is_a_split(classes, held_out, seed):
    whole = make(classes)
    size = held_out if isinstance(held_out, int) else round(held_out * len(classes))
    try:
        parts = split_coco(whole, held_out, seed)
    except SplitError as error:
        assert "\n" not in str(error)
        return
    assert [len(part["images"]) for part in parts] == [len(classes) - size, size]
    for key in ("images", "annotations"):
        ids = [entry["id"] for part in parts for entry in part[key]]
        assert sorted(ids) == sorted(entry["id"] for entry in whole[key])
    for part in parts:
        inside = {image["id"] for image in part["images"]}
        assert {item["image_id"] for item in part["annotations"]} <= inside
        assert part["categories"] == whole["categories"] and part["info"] == whole["info"]
    for category in whole["categories"]:
        if len(images_of(whole, category["id"])) >= 2:
            assert all(images_of(part, category["id"]) for part in parts)
    assert split_coco(whole, held_out, seed) == parts


def brute_force_possible(whole, size):
    from itertools import combinations

    every = {image["id"] for image in whole["images"]}
    sets = [images_of(whole, c["id"]) for c in whole["categories"]]
    sets = [s for s in sets if len(s) >= 2]
    return any(all(s & set(held) and s - set(held) for s in sets) for held in combinations(every, size))


@given(
    st.lists(st.lists(st.integers(1, 4), max_size=2), min_size=3, max_size=8),
    st.integers(1, 7),
    st.integers(0, 3),
)
@settings(max_examples=300)
def test_found_where_brute_force_finds_one(classes, size, seed):
    whole = make(classes)
    if size >= len(classes):
        return
    try:
        split_coco(whole, size, seed)
    except SplitError:
        assert not brute_force_possible(whole, size)
    else:
        assert brute_force_possible(whole, size)


def test_every_class_keeps_its_share():
    """Of common classes each part gets its share within an image or two, and over several seeds."""
    classes = [[1] * (k % 2 == 0) + [2] * (k % 5 == 0) + [3] * (k % 20 == 0) for k in range(400)]
    for seed in range(5):
        _, held = split_coco(make(classes), 0.25, seed)
        shares = [len(images_of(held, c)) for c in (1, 2, 3)]
        assert shares == pytest.approx([50, 20, 5], abs=2)


def test_seed_decides():
    whole = make([[k % 3] for k in range(50)])
    one, two = split_coco(whole, 10, seed=1), split_coco(whole, 10, seed=2)
    assert one != two and one == split_coco(whole, 10, seed=1)


def test_rare_class_in_the_small_part():
    """Two images of class 2 among 1000, one in a hundred held out: chance would nearly always miss it."""
    classes = [[1] for _ in range(1000)]
    classes[17] = classes[800] = [1, 2]
    for seed in range(5):
        assert all(len(images_of(part, 2)) == 1 for part in split_coco(make(classes), 0.01, seed))


def test_crowds_do_not_count():
    whole = make([[1], [1], [2, 1], [2]], crowd={(2, 2)})
    split_coco(whole, 1, 0)  # class 2 has one image, so that no part lacks it


def test_impossible_says_which():
    whole = make([[1, 2], [2, 3], [1, 3]])  # three pairs in a ring: two parts cannot separate them all
    with pytest.raises(SplitError, match=r"1 of 3 images held out, no split .*lacking: 'class \d'\)"):
        split_coco(whole, 1)


@pytest.mark.parametrize("held_out", [0, 4, -1, 0.0, 1.0, 1.5, 0.01, float("nan")])
def test_sizes_out_of_range(held_out):
    with pytest.raises(SplitError, match="cannot hold out|must lie between"):
        split_coco(make([[1], [1], [1], [1]]), held_out)


def test_the_second_file_failing_takes_the_first_away(tmp_path, monkeypatch):
    (tmp_path / "all.json").write_text(json.dumps(make([[1], [1], [1]])))
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SplitError, match="cannot write .*b.json: No space left on device"):
        split_file(tmp_path / "all.json", tmp_path / "a.json", tmp_path / "b.json", 1)
    assert sorted(os.listdir(tmp_path)) == ["all.json"]


@pytest.mark.parametrize(
    "label", ["image {}".format, lambda k: 2**70 + k, lambda k: k / 2], ids=["text", "huge", "half"]
)
def test_ids_of_any_kind(label, tmp_path):
    coco = {
        "images": [{"id": label(k), "file_name": f"{k}.png", "width": 9, "height": 9} for k in range(6)],
        "annotations": [
            {"id": label(k), "image_id": label(k), "category_id": label(k % 2), "bbox": [1, 1, 3, 3]} for k in range(6)
        ],
        "categories": [{"id": label(k), "name": str(k)} for k in range(2)],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    parts = split_file(tmp_path / "a.json", tmp_path / "1.json", tmp_path / "2.json", 2)
    assert [len(part["annotations"]) for part in parts] == [4, 2]
    assert {a["category_id"] for a in parts[1]["annotations"]} == {label(0), label(1)}
