"""Registered beside Detectron2's own: the search split of COCO, and the user's own data sets from a file."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .catalog import DatasetError, unread
from .voc import register_voc

__all__ = ["USER_DATASETS", "register_from_file"]

logger = logging.getLogger(__name__)

USER_DATASETS = "PARAMAP_DATASETS"  # environment variable: a file of the user's own data sets


def _register_search_split() -> None:
    """`coco_2017_train_search` and `coco_2017_train_searchval`, the files of tools/split_dataset.py."""
    whole = MetadataCatalog.get("coco_2017_train")
    stem, extension = os.path.splitext(whole.json_file)
    known = {"thing_classes", "thing_colors", "thing_dataset_id_to_contiguous_id"}
    classes = {key: value for key, value in whole.as_dict().items() if key in known}
    for part in ("search", "searchval"):
        register_coco_instances(f"coco_2017_train_{part}", classes, f"{stem}_{part}{extension}", whole.image_root)


def register_from_file(path: str | os.PathLike[str]) -> list[str]:
    """Register the data sets that a JSON file lists, in COCO or in Pascal VOC form.

    The file: {"my_train": {"json_file": "annotations/train.json", "image_root": "images"},
    "my_voc": {"dirname": "VOCdevkit/mine", "split": "train", "classes": ["cat", "dog"]}, ...}; paths are relative to
    the file's own folder. Named in the environment variable `PARAMAP_DATASETS`, it is read when `paramap_d2.data` is
    imported, so that the workers of a search, which import anew, know the names too.

    Args:
        path: the file.

    Returns:
        the names.

    Raises:
        DatasetError: the file cannot be read or does not have this form, or a name is already taken.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the list of data sets {path}: {error}") from error
    if not isinstance(entries, dict):
        raise DatasetError(f"{path}: expected an object of data sets, found {type(entries).__name__}")
    for name, entry in entries.items():
        _register_entry(name, entry, path)
    return list(entries)


def _register_entry(name: str, entry: Any, path: Path) -> None:
    keys = set(entry) if isinstance(entry, dict) else set()
    if keys not in ({"json_file", "image_root"}, {"dirname", "split", "classes"}):
        raise DatasetError(
            f"{path}: data set '{name}' needs exactly the keys json_file and image_root, or dirname, split and classes"
        )
    for key, value in entry.items():
        if key != "classes" and (not isinstance(value, str) or not value):
            raise DatasetError(f"{path}: data set '{name}' has the {key} {json.dumps(value)}, not a text")
    place = {key: str(path.parent / entry[key]) for key in ("json_file", "image_root", "dirname") if key in entry}
    if "split" in entry:
        classes = entry["classes"]
        if not isinstance(classes, list) or not classes or not all(isinstance(c, str) for c in classes):
            raise DatasetError(f"{path}: data set '{name}' needs a list of texts as its classes")
        place |= {"split": entry["split"], "thing_classes": classes}
    if name in DatasetCatalog:
        if all(MetadataCatalog.get(name).get(key) == value for key, value in place.items()):
            return
        raise DatasetError(f"{path}: a data set of the name '{name}' is already registered")
    if "split" in entry:
        register_voc(name, place["dirname"], entry["split"], entry["classes"])
    else:
        register_coco_instances(name, {}, place["json_file"], place["image_root"])


def _register() -> None:
    _register_search_split()
    unread.clear()
    if os.environ.get(USER_DATASETS):
        try:
            register_from_file(os.environ[USER_DATASETS])
        except DatasetError as error:
            # An import should not fail for this; whoever asks for one of the names is told.
            unread.append(f"{USER_DATASETS}: {error}")
            logger.warning("%s", unread[-1])


_register()
