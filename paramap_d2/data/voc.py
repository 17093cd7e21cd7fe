"""Data in Pascal VOC form, as its authors and the labelling tools of today write it.

A folder with `Annotations/NAME.xml`, `ImageSets/Main/SPLIT.txt` and `JPEGImages/NAME.jpg` (or another kind of image).
Where VOC's own files say more than labelling tools do, what is left out has VOC's usual meaning: an object without
`<difficult>` is not difficult, an image without `<size>` has that of its file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .catalog import DatasetError, missing

__all__ = ["VOCImage", "list_images"]

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
        raise missing(folder.name, error.filename) from None
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
