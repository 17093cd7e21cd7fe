"""What is wrong with data, found before anything is trained on them."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from .catalog import DatasetError, check_datasets, coco_json, the_first_few, warn_of_empty_boxes
from .coco_file import has_no_size, read_coco
from .images import check_image
from .voc import load_voc

__all__ = ["OPENED", "CheckedDataset", "check_content"]

logger = logging.getLogger(__name__)

OPENED = 4000
"""Images of a data set whose headers are read; of a larger one so many, evenly spread."""

BEYOND = 0.2
"""Boxes that reach beyond their image, as a part of all, that make it likely that they are given by two corners: of
boxes that are and lie anywhere, about half do."""


@dataclass(frozen=True)
class CheckedDataset:
    """What a check found in a data set: its classes (None where nothing says), how many objects can be learnt, and what
    they have."""

    name: str
    classes: tuple[str, ...] | None
    objects: int
    masks: int = 0  # objects with one
    encoded_masks: int = 0  # of them, that have it as a run-length code or an array
    keypoints: frozenset[int] = frozenset()  # numbers of them that objects have
    highest_class: int = -1  # known where it is by its number that an object has one


def check_content(names: Iterable[str], images: bool = True) -> list[CheckedDataset]:
    """Whether Detectron2 can train and evaluate on data sets: their annotations, and their image files.

    Of all images whether they are there, of some thousands also size, kind and end.

    Args:
        images: look at image files, too.

    Raises:
        DatasetError: names the data set, the file and the entry.
    """
    return [_check(name, images) for name in dict.fromkeys(names)]


def _check(name: str, images: bool) -> CheckedDataset:
    check_datasets(name)
    metadata = MetadataCatalog.get(name)
    if json_file := coco_json(name):
        image_root, classes = metadata.get("image_root") or "", metadata.get("thing_classes")
        checked, files = _check_coco(name, json_file, image_root, classes)
    else:
        if metadata.get("dirname") and metadata.get("split") and metadata.get("evaluator_type") == "pascal_voc":
            records = load_voc(name, metadata.dirname, metadata.split, metadata.thing_classes)
        else:
            records = DatasetCatalog.get(name)
        if not len(records):
            raise DatasetError(f"data set '{name}' has no image")
        classes = metadata.get("thing_classes")  # of some forms known once they are read
        highest = _check_classes(name, records, len(classes) if classes else math.inf)
        objects = [a for record in records for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        checked = _of_objects(name, tuple(classes) if classes else None, objects, highest)
        files = [
            (os.fspath(record["file_name"]), record["width"], record["height"])
            for record in records
            if {"file_name", "width", "height"} <= set(record)
        ]
    if images:
        _check_images(name, files)
    return checked


def _check_coco(
    name: str, json_file: str, image_root: str, classes: Sequence[str] | None
) -> tuple[CheckedDataset, list[tuple[str, int, int]]]:
    coco = read_coco(json_file)
    listed = tuple(entry["name"] for entry in sorted(coco["categories"], key=lambda entry: entry["id"]))
    if classes and tuple(classes) != listed:
        raise DatasetError(f"data set '{name}' is registered with other classes than {json_file} has")
    annotations = coco.get("annotations", ())
    images = {image["id"] for image in coco["images"]}
    if not images:
        raise DatasetError(f"data set '{name}' has no image: {json_file} lists none")
    empty = [item for item in annotations if has_no_size(item) and item["image_id"] in images]
    if empty:
        warn_of_empty_boxes(name, tuple(f"annotation {a.get('id')} of image {a['image_id']}" for a in empty))
    objects = [a for a in annotations if not a.get("iscrowd", 0) and not has_no_size(a) and a["image_id"] in images]
    _warn_of_boxes(name, objects, coco["images"])
    if twice := sorted(label for label, count in Counter(listed).items() if count > 1):
        logger.warning("data set '%s': several categories are called %s, and each is a class", name, ", ".join(twice))
    files = [(os.path.join(image_root, i["file_name"]), i["width"], i["height"]) for i in coco["images"]]
    return _of_objects(name, listed, objects), files


def _warn_of_boxes(name: str, objects: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> None:
    """Say of boxes that cannot be meant as they are: many that reach beyond their image are corners in place of a width
    and a height."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    beyond, outside, corner = 0, [], True
    for item in objects:
        (x, y, width, height), (right, bottom) = item["bbox"], sizes[item["image_id"]]
        beyond += x + width > right + 1 or y + height > bottom + 1
        corner &= max(x + width, y + height) <= 1 < min(right, bottom)
        if x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
            outside.append(f"annotation {item['id']} of image {item['image_id']}")
    if objects and corner:
        logger.warning("data set '%s': all boxes lie within their image's first pixel: bbox is in pixels", name)
    elif beyond > BEYOND * len(objects):
        logger.warning(
            "data set '%s': %d of %d boxes reach beyond their image: bbox is [x, y, width, height], not two corners",
            name,
            beyond,
            len(objects),
        )
    elif outside:
        logger.warning(
            "data set '%s': %d boxes lie outside of their image: %s", name, len(outside), the_first_few(outside)
        )


def _check_classes(name: str, records: Iterable[Mapping[str, Any]], classes: float) -> int:
    """The highest class of an object; −1 without one."""
    highest = -1
    for record in records:
        for item in record.get("annotations", ()):
            if item.get("iscrowd", 0):
                continue
            label = item.get("category_id", -1)
            if "category_id" in item and not 0 <= label < classes:
                raise DatasetError(
                    f"data set '{name}': an object of {record.get('file_name', 'an image')} has the category_id "
                    f"{label}: classes are counted from 0" + (f" to {classes - 1}" if classes < math.inf else "")
                )
            highest = max(highest, label)
    return highest


def _of_objects(
    name: str, classes: tuple[str, ...] | None, objects: Sequence[Mapping[str, Any]], highest_class: int = -1
) -> CheckedDataset:
    given = [a["segmentation"] for a in objects if a.get("segmentation") is not None]
    masks = [mask for mask in given if len(mask)]
    encoded = sum(not isinstance(mask, list | tuple) for mask in masks)
    keypoints = frozenset(len(a.get("keypoints") or ()) // 3 for a in objects)
    return CheckedDataset(name, classes, len(objects), len(masks), encoded, keypoints, highest_class)


def _check_images(name: str, files: Sequence[tuple[str, int, int]]) -> None:
    local = [file for file in files if "://" not in file[0]]
    folders: dict[str, set[str]] = {}
    for path, _, _ in local:
        folder, base = os.path.split(path)
        if folder not in folders:
            folders[folder] = _listed(folder or ".")
        if base not in folders[folder]:
            raise DatasetError(f"data set '{name}': image {path} does not exist")
    step = -(-len(local) // OPENED) or 1
    # Nothing is shown where no terminal is, or it is done at once.
    bar: Any = tqdm(local[::step], desc=f"checking images of {name}", unit="", disable=None, delay=1, leave=False)
    for path, width, height in bar:
        try:
            check_image(path, width, height)
        except DatasetError as error:
            bar.close()
            raise DatasetError(f"data set '{name}': {error}") from None


def _listed(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
