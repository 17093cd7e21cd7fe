"""What a data set holds, as one number: two runs are on the same data if their digests are the same."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from .catalog import check_datasets, coco_json
from .coco_file import read_coco
from .voc import list_images

__all__ = ["digest"]


def digest(names: str | Iterable[str]) -> dict[str, str]:
    """The sha256 of each data set's content: its annotations, and its images' names and sizes in bytes.

    Folders may be moved and renamed: names count from the folder of the images on. Images are not opened; files must
    not change in the life of the process, which reads each data set once.

    Returns:
        {name: 64 hexadecimal digits}.

    Raises:
        DatasetError: a data set that is not registered, not there or not readable.
    """
    names = [names] if isinstance(names, str) else list(names)
    check_datasets(names)
    return {name: _digest(name, _place(name)) for name in names}


def _place(name: str) -> tuple[str, ...]:
    """Where the data set lies now; a name may be given to other data, and `DETECTRON2_DATASETS` changed."""
    metadata = MetadataCatalog.get(name)
    places = (str(metadata.get(key, "")) for key in ("image_root", "dirname", "split"))
    return (coco_json(name) or "", *places, str(metadata.get("json_file", "")))


@functools.cache
def _digest(name: str, place: tuple[str, ...]) -> str:
    json_file, image_root, dirname, split, _ = place
    annotations = hashlib.sha256()
    images: list[tuple[str, str]] = []  # name and path
    if json_file:
        with PathManager.open(json_file, "rb") as file:
            while block := file.read(2**20):
                annotations.update(block)
        for image in read_coco(json_file)["images"]:
            images.append((image["file_name"], os.path.join(image_root, image["file_name"])))
    elif dirname and split:
        for image in list_images(dirname, split):
            annotations.update(image.annotations.read_bytes())
            images.append((image.file.name, str(image.file)))
    else:
        for record in DatasetCatalog.get(name):
            path = str(record.get("file_name", ""))
            rest = {key: value for key, value in record.items() if key != "file_name"}
            annotations.update(json.dumps(rest, sort_keys=True, default=_plain).encode())
            images.append((os.path.basename(path), path))
    whole = hashlib.sha256(annotations.digest())
    for image, path in images:
        whole.update(f"{image}\0{_size(path)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON does not know. (An array as text leaves most of itself out.)"""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value)).hexdigest()]
    return str(value)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # checked elsewhere, or not a local file
        return -1
