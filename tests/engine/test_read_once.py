import copy
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_test_loader, detection_utils
from PIL import Image

from paramap_d2.engine import cpu_speed
from paramap_d2.engine.cpu_speed import fast_training, images_read_once
from paramap_d2.search.proxies.proxy import Proxy, Task
from paramap_d2.search.space import SearchSpace

MAPPER = {"is_train": False, "augmentations": [], "image_format": "BGR"}


@pytest.fixture
def decoded(monkeypatch):
    """Paths that have been decoded, in order; nothing is held at first."""
    paths = []
    original = detection_utils.read_image

    def counting(file_name, format=None):
        paths.append(os.fspath(file_name))
        return original(file_name, format)

    monkeypatch.setattr(detection_utils, "read_image", counting)
    monkeypatch.setattr(cpu_speed, "_images", {})
    return paths


@pytest.fixture
def records(tmp_path):
    generator = np.random.default_rng(0)
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (20, 30 + number, 3), dtype=np.uint8)).save(path)
        found.append({"file_name": str(path), "image_id": number})
    return found


def mapped(records):
    mapper = DatasetMapper(**MAPPER)
    return [mapper(copy.deepcopy(record))["image"] for record in records]


def test_denormal_numbers_are_zero_in_it_alone():
    smallest = torch.tensor([1.2e-38])  # a normal number
    with fast_training():
        assert (smallest / 8).item() == 0
    assert (smallest / 8).item() > 0


def test_mappers_get_the_same_and_decode_it_once(decoded, records):
    plain = mapped(records)
    del decoded[:]
    for _ in range(3):
        with images_read_once():
            for _ in range(2):
                torch.testing.assert_close(mapped(records), plain, rtol=0, atol=0)
    assert decoded == [record["file_name"] for record in records]
    mapped(records)  # outside of the context, as ever
    assert len(decoded) == 8


def test_formats_are_kept_apart_and_copies_are_the_callers_own(decoded, records):
    path = records[0]["file_name"]
    with images_read_once():
        images = {kind: detection_utils.read_image(path, kind) for kind in ("BGR", "RGB", "L")}
        assert images["L"].shape == (20, 30, 1)
        np.testing.assert_array_equal(images["BGR"], images["RGB"][:, :, ::-1])
        want = images["RGB"].copy()
        for _ in range(2):
            image = detection_utils.read_image(path, "RGB")
            np.testing.assert_array_equal(image, want)
            image[:] = 0
    assert len(decoded) == 3


def test_no_more_is_held_than_the_limit(decoded, records, monkeypatch):
    monkeypatch.setattr(cpu_speed, "LIMIT", 20 * (30 + 31) * 3 + 1)
    with images_read_once():
        for _ in range(3):
            mapped(records)
    assert len(decoded) == 2 + 3 * 2
    assert sum(image.nbytes for image in cpu_speed._images.values()) <= cpu_speed.LIMIT


def test_processes_of_a_loader_hold_nothing(decoded, records, monkeypatch):
    monkeypatch.setattr(cpu_speed, "get_worker_info", lambda: "of a loader")
    with images_read_once():
        mapped(records)
        mapped(records)
    assert len(decoded) == 8 and not cpu_speed._images


def test_through_a_loader_with_processes(decoded, records):
    with images_read_once():
        loader = build_detection_test_loader(records, mapper=DatasetMapper(**MAPPER), num_workers=2)
        found = [one["image"] for (one,) in loader]
    torch.testing.assert_close(found, mapped(records), rtol=0, atol=0)


def test_paths_are_kept_apart_by_the_folder_they_start_from(decoded, records, tmp_path, monkeypatch):
    found = []
    for number in (0, 1):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        os.rename(records[number]["file_name"], folder / "same.png")
        monkeypatch.chdir(folder)
        with images_read_once():
            found.append(detection_utils.read_image("same.png", "BGR").shape)
    assert found == [(20, 30, 3), (20, 31, 3)]


class Reading:
    """A config whose training reads the images, and finds as much as it could read."""

    def __init__(self, records):
        self.records = records

    def train(self, loss_file, folder, seed, watch, iterations=None):
        with fast_training():
            return {"bbox": {"AP": float(len(mapped(self.records)))}}


def test_a_workers_proxies_decode_an_image_once(decoded, records, tmp_path):
    space = SearchSpace(("dense",))
    proxy = Proxy(Reading(records), space, "AP", str(tmp_path / "evaluations"))
    outcomes = [proxy(Task(0, position, space.identity(), seed=0)) for position in range(3)]
    assert [outcome.fitness for outcome in outcomes] == [4.0] * 3
    assert len(decoded) == 4


def test_an_image_that_cannot_be_read_is_told_each_time_and_all_is_put_back(decoded):
    before = detection_utils.read_image
    for _ in range(2):
        with pytest.raises(FileNotFoundError), images_read_once():
            detection_utils.read_image("nowhere.png", "BGR")
    assert detection_utils.read_image is before
