import hashlib
import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from paramap_d2.data import shapes
from paramap_d2.data.catalog import DatasetError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    shapes.ensure_shapes(folder)
    return folder


KNOWN_LABELS = [2, 1, 2, 2, 2]
KNOWN_GREEN = [101.7, 111.5, 114.5, 103.7, 101.6, 87.0, 100.9, 94.4, 101.3]


def shapes_of(root):
    return root / "shapes" / shapes.VERSION


def annotations(root, split):
    return json.loads((shapes_of(root) / f"{split}.json").read_text())


def drawn(folder, split, number):
    """An image as it lies in the folder: its pixels, and category and polygon of its objects."""
    coco = json.loads((folder / f"{split}.json").read_text())
    (file_name,) = [image["file_name"] for image in coco["images"] if image["id"] == number]
    objects = [(a["category_id"], a["segmentation"]) for a in coco["annotations"] if a["image_id"] == number]
    return np.asarray(Image.open(folder / split / file_name)), objects


def digest(folder):
    """Of every pixel and every JSON value, in order; not of the files, whose compression may differ."""
    result = hashlib.sha256()
    for split in shapes.SPLITS:
        result.update((folder / f"{split}.json").read_bytes())
        for path in sorted((folder / split).glob("*.png")):
            result.update(np.asarray(Image.open(path)).tobytes())
    return result.hexdigest()


def test_drawing_is_the_same_bit_for_bit_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 6, "val": 3})
    shapes.draw_shapes(tmp_path / "here")
    code = (
        "import sys; from paramap_d2.data import shapes; "
        "shapes.SPLITS = {'train': 6, 'val': 3}; shapes.draw_shapes(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True, env=_environment())
    assert digest(tmp_path / "here") == digest(tmp_path / "there")


def test_an_image_depends_on_its_own_number_alone(root, tmp_path, monkeypatch):
    """Images may be added to a split, and to those before it, without a change of those that were there."""
    for counts in ({"train": 6, "val": 3}, {"train": 2, "val": 1}):
        monkeypatch.setattr(shapes, "SPLITS", counts)
        folder = tmp_path / str(counts["train"])
        shapes.draw_shapes(folder)
        for split, image in (("train", 1), ("train", 2), ("val", 1)):
            (theirs, objects), (whole, expected) = drawn(folder, split, image), drawn(shapes_of(root), split, image)
            assert np.array_equal(theirs, whole) and objects == expected, (counts, split, image)


def test_known_picture(root):
    """Guards VERSION: whoever changes what is drawn must raise it, or users mix old and new files."""
    image, objects = drawn(shapes_of(root), "train", 1)
    coarse = image.reshape(8, 16, 8, 16, 3).mean(axis=(1, 3))  # a last bit of sin or exp must not matter
    assert shapes.VERSION == "v1"
    assert [label - 1 for label, _ in objects] == KNOWN_LABELS
    assert coarse[::3, ::3, 1].round(1).ravel() == pytest.approx(KNOWN_GREEN, abs=0.2)


def test_counts_sizes_and_classes(root):
    seen = set()
    for split, count in shapes.SPLITS.items():
        coco = annotations(root, split)
        assert len(coco["images"]) == count
        assert {image["file_name"] for image in coco["images"]} == {
            path.name for path in (root / "shapes" / shapes.VERSION / split).glob("*.png")
        }
        per_class = np.bincount([item["category_id"] for item in coco["annotations"]])
        assert len(per_class) == 4 and per_class[1:].min() > 0.25 * per_class.sum()
        per_image = np.bincount([item["image_id"] for item in coco["annotations"]], minlength=count + 1)[1:]
        assert 1 <= per_image.min() <= 2 and 7 <= per_image.max() <= 10
        sides = np.sqrt([item["bbox"][2] * item["bbox"][3] for item in coco["annotations"]])
        assert sides.min() < 20 and sides.max() > 50
        seen |= {path.read_bytes() for path in (root / "shapes" / shapes.VERSION / split).glob("*.png")}
    assert len(seen) == sum(shapes.SPLITS.values())  # no image is in two splits


def test_boxes_bound_polygons_inside_the_image(root):
    for item in annotations(root, "val")["annotations"]:
        polygon = np.array(item["segmentation"][0]).reshape(-1, 2)
        x, y, w, h = item["bbox"]
        assert np.allclose([*polygon.min(axis=0), *np.ptp(polygon, axis=0)], [x, y, w, h], atol=0.011)
        assert min(x, y) >= 0 and max(x + w, y + h) <= shapes.SIZE
        mask = pycocotools.mask.merge(pycocotools.mask.frPyObjects(item["segmentation"], 128, 128))
        assert pycocotools.mask.area(mask) == pytest.approx(item["area"], rel=0.2)


@pytest.mark.parametrize("make", ["_circle", "_rectangle", "_triangle"])
def test_what_is_painted_is_what_is_annotated(make):
    arguments = {"_circle": (60, 70, 25), "_rectangle": (60, 70, 40, 22, 0.4), "_triangle": (60, 70, 30, 2.0)}
    outline = getattr(shapes, make)(*arguments[make])
    mask = pycocotools.mask.decode(
        pycocotools.mask.merge(pycocotools.mask.frPyObjects([outline.polygon.reshape(-1).tolist()], 128, 128))
    )
    painted = outline.alpha > 0.5
    assert (painted & (mask > 0)).sum() / (painted | (mask > 0)).sum() > 0.93
    assert outline.alpha.min() == 0 and outline.alpha.max() == 1


def test_objects_overlap_but_stay_visible():
    """Redo the painting order from the outlines: none may keep less than 0.7 of its pixels."""
    overlapping = 0
    for number in range(30):
        _, objects = shapes.draw_image(np.random.RandomState([shapes.SEED, 0, number]))
        masks = [
            pycocotools.mask.decode(
                pycocotools.mask.merge(pycocotools.mask.frPyObjects([p.reshape(-1).tolist()], 128, 128))
            ).astype(bool)
            for _, p in objects
        ]
        for k, mask in enumerate(masks):
            above = np.any(masks[k + 1 :], axis=0) if k + 1 < len(masks) else np.zeros_like(mask)
            visible = (mask & ~above).sum() / mask.sum()
            assert visible > 0.6  # 0.7 up to the difference of the two rasterisations
            overlapping += visible < 0.95
    assert overlapping > 20


def test_objects_differ_from_the_ground(root):
    """What cannot be seen cannot be learnt: the middle of an uncovered object is not the ground's colour."""
    image, objects = shapes.draw_image(np.random.RandomState([shapes.SEED, 1, 5]))
    (x, y) = objects[-1][1].mean(axis=0).astype(int)  # the topmost
    inside = image[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
    assert np.abs(inside - np.median(image, axis=(0, 1))).mean() > 20


def test_catalog_follows_the_environment_at_the_time_of_use(root, tmp_path, monkeypatch):
    for folder in (root, tmp_path):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
        monkeypatch.setattr(shapes, "SPLITS", {"train": 4, "val": 2, "test": 2})
        metadata = MetadataCatalog.get("shapes_train")
        assert metadata.json_file == str(folder / "shapes" / shapes.VERSION / "train.json")
        assert os.path.isfile(metadata.json_file) and os.path.isdir(metadata.image_root)
        records = DatasetCatalog.get("shapes_train")
        assert len(records) == (256 if folder is root else 4)
        assert records[0]["file_name"].startswith(str(folder))
        assert {item["category_id"] for r in records for item in r["annotations"]} <= {0, 1, 2}
    assert metadata.thing_classes == ["circle", "square", "triangle"]
    assert metadata.evaluator_type == "coco"


def _draw(folder, barrier):
    shapes.SPLITS = {"train": 5, "val": 2}
    barrier.wait()
    shapes.ensure_shapes(folder)


def test_several_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_draw, args=(tmp_path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(tmp_path / "shapes") == [shapes.VERSION]  # the losers left nothing behind
    assert len(os.listdir(tmp_path / "shapes" / shapes.VERSION / "train")) == 5


def test_the_loser_of_the_race_uses_the_winners_files(tmp_path, monkeypatch):
    def slower(folder):
        winner = tmp_path / "shapes" / shapes.VERSION
        winner.mkdir()
        (winner / "train.json").write_text("the winner's")
        (folder / "train.json").write_text("the loser's")

    monkeypatch.setattr(shapes, "draw_shapes", slower)
    folder = shapes.ensure_shapes(tmp_path)
    assert (folder / "train.json").read_text() == "the winner's"
    assert os.listdir(tmp_path / "shapes") == [shapes.VERSION]


def test_a_failed_drawing_leaves_nothing(tmp_path, monkeypatch):
    def full(folder):
        (folder / "train.json").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "draw_shapes", full)
    with pytest.raises(DatasetError, match="No space left on device; set DETECTRON2_DATASETS"):
        shapes.ensure_shapes(tmp_path)
    assert os.listdir(tmp_path / "shapes") == []


def test_a_root_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot draw the data set 'shapes'") as caught:
        shapes.ensure_shapes(tmp_path / "file")
    assert "\n" not in str(caught.value)


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
