"""BCCD: 364 real images of blood cells in Pascal VOC form, at `$DETECTRON2_DATASETS/BCCD`.

Registered as `bccd_train`, `bccd_val`, `bccd_trainval` and `bccd_test`. `train` and `val` are for searching
and tuning; `test` is for final figures alone. Home: the GitHub repository Shenggan/BCCD_Dataset (MIT).
"""

from __future__ import annotations

import functools
import logging
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_voc_instances

from .catalog import datasets_root, missing

__all__ = ["CLASSES", "SPLITS", "invalid_boxes", "load_bccd"]

CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = ("train", "val", "trainval", "test")

logger = logging.getLogger(__name__)


def invalid_boxes(dirname: str) -> list[tuple[str, str, tuple[float, ...]]]:
    """Boxes without width or height in any of the annotation files.

    Returns:
        (image, class, (xmin, ymin, xmax, ymax) as the file has them), in the order of the files' names.
    """
    found = []
    for path in sorted(Path(dirname, "Annotations").glob("*.xml")):
        for item in ElementTree.parse(path).iterfind("object"):
            box = tuple(float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
            if box[2] <= box[0] or box[3] <= box[1]:
                found.append((path.stem, item.findtext("name"), box))
    return found


@functools.cache  # so that a process warns once, whichever splits it loads and however often
def _warn_of_invalid_boxes(dirname: str) -> None:
    found = invalid_boxes(dirname)
    if found:
        boxes = "; ".join(f"{image} {label} ({', '.join(f'{v:g}' for v in box)})" for image, label, box in found)
        logger.warning("BCCD: dropped %d boxes without width or height (xmin, ymin, xmax, ymax): %s", len(found), boxes)


def load_bccd(dirname: str, split: str) -> list[dict]:
    """One split in Detectron2's standard form, without the boxes that have no width or height.

    Args:
        dirname: the folder with `Annotations`, `ImageSets` and `JPEGImages`.
        split: one of `SPLITS`.

    Raises:
        DatasetError: the split's list of images is not there.
    """
    image_list = Path(dirname, "ImageSets", "Main", f"{split}.txt")
    if not image_list.is_file():
        raise missing(f"bccd_{split}", image_list)
    _warn_of_invalid_boxes(dirname)
    records = load_voc_instances(dirname, split, CLASSES)
    for record in records:
        record["image_id"] = str(record["image_id"])  # numpy's strings do not survive every serialiser
        record["file_name"] = str(record["file_name"])
        # Detectron2 has moved xmin and ymin by one, so that a box of no width is now one pixel wide.
        record["annotations"] = [
            item
            for item in record["annotations"]
            if item["bbox"][2] - item["bbox"][0] > 1 and item["bbox"][3] - item["bbox"][1] > 1
        ]
    return records


class _BCCDMetadata(Metadata):
    """`dirname` follows `DETECTRON2_DATASETS` as it stands when it is asked for, and exists by then."""

    @property
    def dirname(self) -> str:
        folder = datasets_root() / "BCCD"
        if not folder.is_dir():
            raise missing(self.name, folder)
        return str(folder)


def _load(name: str) -> list[dict]:
    metadata = MetadataCatalog.get(name)
    return load_bccd(metadata.dirname, metadata.split)


def _register() -> None:
    for split in SPLITS:
        name = f"bccd_{split}"
        if name in DatasetCatalog:
            continue
        DatasetCatalog.register(name, functools.partial(_load, name))
        MetadataCatalog[name] = _BCCDMetadata(name=name)
        # 2012: Average Precision as the area under the curve, not 2007's eleven points.
        MetadataCatalog.get(name).set(split=split, year=2012, thing_classes=list(CLASSES), evaluator_type="pascal_voc")


_register()
