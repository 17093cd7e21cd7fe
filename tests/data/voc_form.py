"""Writes small data sets in Pascal VOC form for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_voc(folder: Path, objects: dict[str, list], splits: dict[str, list[str]], size=(640, 480)) -> None:
    """`objects`: image -> [(class, xmin, ymin, xmax, ymax[, difficult])]."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    for name, items in objects.items():
        boxes = "".join(
            f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{rest[0] if rest else 0}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for label, x0, y0, x1, y1, *rest in items
        )
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
            f"{boxes}</annotation>"
        )
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
    for split, names in splits.items():
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
