"""BCCD: 364 real images of blood cells in Pascal VOC form, at `$DETECTRON2_DATASETS/BCCD`.

Registered as `bccd_train`, `bccd_val`, `bccd_trainval` and `bccd_test`. `train` and `val` are for searching
and tuning; `test` is for final figures alone. Home: the GitHub repository Shenggan/BCCD_Dataset (MIT).
"""

from __future__ import annotations

import functools

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from .catalog import datasets_root, missing
from .voc import load_voc

__all__ = ["CLASSES", "SPLITS"]

CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = ("train", "val", "trainval", "test")


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
    return load_voc(name, metadata.dirname, metadata.split, CLASSES)


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
