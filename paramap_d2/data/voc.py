"""Data in Pascal VOC form, as its authors and the labelling tools of today write it.

A folder with `Annotations/NAME.xml`, `ImageSets/Main/SPLIT.txt` and `JPEGImages/NAME.jpg` (or another kind of image).
Where VOC's own files say more than labelling tools do, what is left out has VOC's usual meaning: an object without
`<difficult>` is not difficult, an image without `<size>` has that of its file.
"""

from __future__ import annotations

import functools
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .catalog import DatasetError, warn_of_empty_boxes
from .images import image_size

__all__ = ["VOCAnnotations", "VOCImage", "VOCObject", "list_images", "load_voc", "read_annotations", "register_voc"]

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class VOCImage:
    """An image of a split: its name in the list and its two files."""

    name: str
    annotations: Path
    file: Path


def list_images(dirname: str | os.PathLike[str], split: str) -> list[VOCImage]:
    """The images of a split, in the order of its list.

    A line is an image's name, which may have spaces in it, its image file's name, or either with the flag 1, 0 or -1
    of VOC's lists of a class, which says nothing of whether the image belongs to the split.

    Raises:
        DatasetError: no list, or a line without an annotation file or an image.
    """
    folder = Path(dirname)
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        annotations = {entry.name for entry in os.scandir(folder / "Annotations")}
        files: dict[str, str] = {}
        for entry in sorted(os.scandir(folder / "JPEGImages"), key=lambda entry: entry.name):
            stem, kind = os.path.splitext(entry.name)
            if kind.lower() in IMAGE_TYPES and (stem not in files or kind == ".jpg"):
                files[stem] = entry.name
    except FileNotFoundError as error:
        raise DatasetError(f"VOC folder {folder} needs {error.filename}, which does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {getattr(error, 'filename', None) or path}: {error}") from None
    images = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = next((name for name in _names(line.strip()) if f"{name}.xml" in annotations), None)
        if name is None:
            raise DatasetError(f"{path}, line {number}: {folder / 'Annotations'} has no file {line.strip()}.xml")
        if name not in files:
            raise DatasetError(f"{path}, line {number}: {folder / 'JPEGImages'} has no image of the name {name}")
        images.append(VOCImage(name, folder / "Annotations" / f"{name}.xml", folder / "JPEGImages" / files[name]))
    if not images:
        raise DatasetError(f"{path} names no image")
    return images


def _names(line: str) -> list[str]:
    """What may be meant by a line, the most literal first."""
    first, _, flag = line.rpartition(" ")
    lines = [line, first.rstrip()] if flag in ("1", "0", "-1") else [line]
    stems = [os.path.splitext(name)[0] for name in lines if name.lower().endswith(IMAGE_TYPES)]
    return lines + stems


@dataclass(frozen=True)
class VOCObject:
    """An object as its file has it; `box` is (xmin, ymin, xmax, ymax), pixels counted from 1."""

    label: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VOCAnnotations:
    """What an image's annotation file holds. Sides in pixels."""

    width: int
    height: int
    objects: list[VOCObject]


def is_empty(box: tuple[float, float, float, float]) -> bool:
    """(xmin, ymin, xmax, ymax) has no width or no height, or is turned about: it is no object."""
    return box[2] <= box[0] or box[3] <= box[1]


def read_annotations(image: VOCImage) -> VOCAnnotations:
    """An image's annotation file.

    Raises:
        DatasetError: names the file and what cannot be read in it.
    """
    path = image.annotations
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from None
    objects = []
    for number, item in enumerate(root.iterfind("object"), start=1):
        where = f"{path}, object {number}"
        label = " ".join((item.findtext("name") or "").split())
        if not label:
            raise DatasetError(f"{where} has no name")
        box = tuple(_number(item, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (item.findtext("difficult") or "0").strip().lower()
        if difficult not in ("0", "1", "false", "true", "unspecified"):
            raise DatasetError(f"{where} ({label}): difficult is '{difficult}', neither 0 nor 1")
        objects.append(VOCObject(label, box, difficult in ("1", "true")))
    size = [(root.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    try:
        width, height = (int(float(side)) for side in size)
        if width < 1 or height < 1:  # some tools leave it out, or write 0
            width, height = image_size(image.file)
    except (ValueError, OverflowError):
        raise DatasetError(f"{path}: the image's size is {' x '.join(size)}") from None
    return VOCAnnotations(width, height, objects)


def _number(item: ElementTree.Element, key: str, where: str) -> float:
    text = item.findtext(key)
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where} ({item.findtext('name')}): {key} is {text!r}, not a number")
    return value


def class_index(label: str, classes: Sequence[str], image: VOCImage) -> int:
    """The class's place in the list; spelt in another case where the list has no other class so.

    Raises:
        DatasetError: the list does not have it.
    """
    if label in classes:
        return classes.index(label)
    near = [k for k, name in enumerate(classes) if name.lower() == label.lower()]
    if len(near) != 1:
        raise DatasetError(f"{image.annotations} has an object of class '{label}', not one of {', '.join(classes)}")
    return near[0]


def load_voc(name: str, dirname: str | os.PathLike[str], split: str, classes: Sequence[str]) -> list[dict]:
    """A split in Detectron2's standard form, without boxes that have no width or height.

    Args:
        name: the data set's, for messages.
        dirname: the folder with `Annotations`, `ImageSets` and `JPEGImages`.

    Raises:
        DatasetError: names the file that cannot be used.
    """
    classes, records, empty = list(classes), [], []
    for image in list_images(dirname, split):
        annotations = read_annotations(image)
        items = []
        for item in annotations.objects:
            label = class_index(item.label, classes, image)
            if is_empty(item.box):
                empty.append(f"{image.name} {item.label} ({', '.join(f'{v:g}' for v in item.box)})")
                continue
            # As Detectron2 has it: pixels count from 1, so the box of the whole image begins at 1 and at (0, 0).
            box = [item.box[0] - 1, item.box[1] - 1, item.box[2], item.box[3]]
            items.append({"category_id": label, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
        records.append(
            {
                "file_name": str(image.file),
                "image_id": image.name,
                "height": annotations.height,
                "width": annotations.width,
                "annotations": items,
            }
        )
    if empty:
        warn_of_empty_boxes(name, tuple(empty))
    return records


def register_voc(name: str, dirname: str | os.PathLike[str], split: str, classes: Sequence[str]) -> None:
    """Register a split of a VOC folder; AP is the area under the curve, as from 2010 on."""
    DatasetCatalog.register(name, functools.partial(load_voc, name, dirname, split, classes))
    MetadataCatalog.get(name).set(
        thing_classes=list(classes), dirname=str(dirname), split=split, year=2012, evaluator_type="pascal_voc"
    )
