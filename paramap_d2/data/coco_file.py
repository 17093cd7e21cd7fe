"""A user's own COCO file: read with errors that a user can act on, and numbered for evaluators.

The one place for the rules of such files. Ids are labels, whatever their type. A box without width or height is no
object. An `area` that is not there or cannot be is the box's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.utils.file_io import PathManager

from .catalog import DatasetError

__all__ = ["NumberedCOCO", "has_no_size", "number", "read_coco", "sorted_ids"]

Id = int | float | str


def read_coco(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file in COCO's instances form, with all that Detectron2's loader and evaluators assume.

    `annotations` may be lacking, as in test sets.

    Raises:
        DatasetError: names the file and the entry.
    """
    path = os.fspath(path)
    coco = _parsed(path)
    for key in ("images", "categories"):
        if not isinstance(coco.get(key), list):
            raise DatasetError(f"{path} has no list '{key}': expected COCO's instances form")
    if not isinstance(coco.get("annotations", []), list):
        raise DatasetError(f"{path}: 'annotations' must be a list, not {_shown(coco['annotations'])}")
    _check(coco, path)
    return coco


def _parsed(path: str) -> dict[str, Any]:
    try:
        with open(PathManager.get_local_path(path), "rb") as file:
            content = file.read()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from None
    if content.startswith(b"\xef\xbb\xbf"):
        raise DatasetError(f"{path} begins with a byte order mark: save it as UTF-8 without one")
    try:
        coco = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}") from None
    if not isinstance(coco, dict):
        raise DatasetError(f"{path} holds a {_shown(coco)}: expected an object, COCO's instances form")
    return coco


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return {list: "list", dict: "object"}[type(value)]
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != math.inf


def _check(coco: dict[str, Any], path: str) -> None:
    """Raise unless every entry is what Detectron2 takes it for."""
    images = _ids(coco, "images", path)
    categories = _ids(coco, "categories", path)
    if not categories:
        raise DatasetError(f"{path}: 'categories' is empty")
    for k, category in enumerate(coco["categories"]):
        if not isinstance(category.get("name"), str):
            raise DatasetError(f"{path}: categories[{k}] has the name {_shown(category.get('name'))}, not a text")
    for k, image in enumerate(coco["images"]):
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DatasetError(f"{path}: images[{k}] has the file_name {_shown(image.get('file_name'))}, not a text")
        for side in ("width", "height"):
            value = image.get(side)
            if not _is_number(value) or value < 1 or value != int(value):
                raise DatasetError(f"{path}: images[{k}] ({image['file_name']}) has the {side} {_shown(value)}")
    _ids(coco, "annotations", path)
    spellings = {str(label): label for label in images}
    strangers = 0
    for k, item in enumerate(coco.get("annotations", ())):
        problem = _problem(item, categories)
        try:
            stranger = item.get("image_id") not in images
        except TypeError:  # a list
            stranger = True
        if stranger and not problem:
            # An annotation of an image that is not listed takes no part, as Detectron2 has it: the list may have been
            # shortened. But an id of another type, or none, is a mistake.
            strangers += 1
            near = spellings.get(str(item.get("image_id")))
            if near is not None:
                problem = f"has the image_id {_shown(item['image_id'])}, and the image's id is {_shown(near)}"
            elif not isinstance(item.get("image_id"), int | float | str):
                problem = f"has the image_id {_shown(item.get('image_id'))}"
        if problem:
            raise DatasetError(f"{path}: annotations[{k}] {problem}")
    if strangers and strangers == len(coco["annotations"]):
        raise DatasetError(f"{path}: no annotation is of an image that the file lists")


def _ids(coco: dict[str, Any], key: str, path: str) -> dict[Id, int]:
    """The place of each id in a list, whose entries are objects, each with an id of its own."""
    found: dict[Id, int] = {}
    for k, entry in enumerate(coco.get(key, ())):
        if not isinstance(entry, dict):
            raise DatasetError(f"{path}: {key}[{k}] is a {_shown(entry)}, not an object")
        label = entry.get("id")
        if not isinstance(label, str) and not _is_number(label):
            raise DatasetError(f"{path}: {key}[{k}] has the id {_shown(label)}, neither a number nor a text")
        if label in found:
            raise DatasetError(f"{path}: {key}[{found[label]}] and {key}[{k}] have the same id {_shown(label)}")
        found[label] = k
    if len({isinstance(label, str) for label in found}) > 1:
        raise DatasetError(f"{path}: some ids of '{key}' are numbers and some are texts: make them one kind")
    return found


def _problem(item: dict[str, Any], categories: dict[Id, int]) -> str:
    """What is wrong with an annotation, in words that follow its place; empty if nothing is."""
    category, box = item.get("category_id"), item.get("bbox")
    if isinstance(category, list | dict | bool) or category not in categories:
        return f"has the category_id {_shown(category)}, which 'categories' does not list"
    if box is None:
        return "has no bbox"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return f"has the bbox {json.dumps(box)[:60]}, not four numbers"
    if item.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {_shown(item['iscrowd'])}, neither 0 nor 1"
    if item.get("ignore", 0) != 0:
        return "has 'ignore', which Detectron2 does not know: use iscrowd, or take the annotation out"
    points = item.get("keypoints")
    if points and not (isinstance(points, list) and len(points) % 3 == 0 and all(_is_number(v) for v in points)):
        return f"has keypoints {json.dumps(points)[:60]}, not three numbers each"
    return _mask_problem(item.get("segmentation"))


def _mask_problem(mask: Any) -> str:
    if not mask:
        return ""
    if isinstance(mask, dict):
        return "" if "counts" in mask and "size" in mask else "has a segmentation without counts and size"
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "has a segmentation that is no list of polygons"
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
        return "has a segmentation without a polygon of three points, and Detectron2 would leave the object out: use []"
    return ""


def has_no_size(item: dict[str, Any]) -> bool:
    """The annotation's box, [x, y, width, height], has no width or no height: it is no object."""
    return item["bbox"][2] <= 0 or item["bbox"][3] <= 0


def sorted_ids(entries: Sequence[dict[str, Any]]) -> list[Id]:
    """The entries' ids in the order in which Detectron2 and pycocotools take them."""
    return sorted(entry["id"] for entry in entries)


@dataclass(frozen=True)
class NumberedCOCO:
    """A COCO file's content under numbers, and what they stand for.

    Args:
        coco: images, categories and annotations have the ids 1, 2, ...; boxes without size are left out, areas are
            numbers, `iscrowd` is 0 or 1.
        images: image id -> number.
        categories: category ids; that at place c has the number c + 1.
        empty: annotations left out.
    """

    coco: dict[str, Any]
    images: dict[Id, int]
    categories: list[Id]
    empty: list[dict[str, Any]]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the detector's classes."""
        return tuple(entry["name"] for entry in sorted(self.coco["categories"], key=lambda entry: entry["id"]))


def number(coco: dict[str, Any], categories: Sequence[Id] | None = None) -> NumberedCOCO:
    """Number a COCO file's content. Images keep the order of their ids, annotations that of the file, so that equals
    stay in theirs.

    Args:
        coco: as `read_coco` gives it; stays as it is.
        categories: ids in the order of the detector's classes; by default sorted.
    """
    categories = sorted_ids(coco["categories"]) if categories is None else list(categories)
    classes = {label: k for k, label in enumerate(categories, start=1)}
    images = {label: k for k, label in enumerate(sorted_ids(coco["images"]), start=1)}
    numbered = {
        **coco,
        "images": [{**image, "id": images[image["id"]]} for image in coco["images"]],
        "categories": [{**entry, "id": classes[entry["id"]]} for entry in coco["categories"]],
    }
    empty: list[dict[str, Any]] = []
    if "annotations" in coco:
        numbered["annotations"] = list(_annotations(coco, images, classes, empty))
    return NumberedCOCO(numbered, images, categories, empty)


def _annotations(
    coco: dict[str, Any], images: dict[Id, int], classes: dict[Id, int], empty: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    count = 0
    points = max((len(item.get("keypoints") or ()) for item in coco["annotations"]), default=0)
    for item in coco["annotations"]:
        if item["image_id"] not in images:
            continue
        if has_no_size(item):
            empty.append(item)
            continue
        count += 1
        area = item.get("area")
        fixed = {
            "id": count,
            "image_id": images[item["image_id"]],
            "category_id": classes[item["category_id"]],
            "area": area if _is_number(area) and area > 0 else item["bbox"][2] * item["bbox"][3],
            "iscrowd": int(item.get("iscrowd", 0)),
        }
        if points:  # pycocotools reads those of every object, where one has some
            fixed["keypoints"] = item.get("keypoints") or [0] * points
            fixed["num_keypoints"] = item.get("num_keypoints", sum(v > 0 for v in fixed["keypoints"][2::3]))
        yield {**item, **fixed}
