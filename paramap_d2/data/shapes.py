"""`shapes`: a detection data set that the project draws itself, so that demo and tests run anywhere.

128 x 128 images of circles, squares and triangles, a little turned, of many sizes, partly covering each other, on a
textured and noisy ground among lines, bars and rings that belong to no class. Colour hints at the class and
misleads often enough that form has to be learnt too. What is drawn depends on `SEED`, the split and the
image's number alone.

The files are in COCO form under `$DETECTRON2_DATASETS/shapes/<version>/`, drawn on first use. Boxes and
polygons outline the whole object, its covered part included; at least 0.7 of every object is visible.
"""

from __future__ import annotations

import colorsys
import functools
import json
import logging
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.coco import load_coco_json
from PIL import Image

from .catalog import DatasetError, datasets_root

__all__ = ["CLASSES", "SPLITS", "draw_image", "draw_shapes", "ensure_shapes"]

CLASSES = ("circle", "square", "triangle")
SPLITS = {"train": 256, "val": 128, "test": 128}  # images in each
SIZE = 128  # pixels, both sides
SEED = 20240
VERSION = "v1"  # of the drawing: raise it with any change of what is drawn, so that no old files are read

_MIN_RADIUS, _MAX_RADIUS = 11.0, 36.0  # of the circle around the object, in pixels
_MIN_VISIBLE = 0.7  # share of an object's pixels that later objects may not cover

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outline:
    """A convex region: `alpha` is its share of each pixel, (SIZE, SIZE) in [0, 1]; `polygon` is (n, 2)."""

    alpha: np.ndarray
    polygon: np.ndarray


def _pixel_centres() -> tuple[np.ndarray, np.ndarray]:
    centres = np.arange(SIZE) + 0.5
    return np.meshgrid(centres, centres)


def _convex(polygon: np.ndarray) -> _Outline:
    """Polygon with its corners in clockwise order on screen (y down)."""
    x, y = _pixel_centres()
    inside = np.full((SIZE, SIZE), np.inf)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        inside = np.minimum(inside, ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
    return _Outline(np.clip(inside + 0.5, 0, 1), polygon)


def _circle(cx: float, cy: float, radius: float) -> _Outline:
    x, y = _pixel_centres()
    angles = np.arange(32) * (2 * np.pi / 32)
    polygon = np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], axis=1)
    return _Outline(np.clip(radius - np.hypot(x - cx, y - cy) + 0.5, 0, 1), polygon)


def _rectangle(cx: float, cy: float, width: float, height: float, angle: float) -> _Outline:
    corners = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    return _convex(corners @ _rotation(angle) + (cx, cy))


def _triangle(cx: float, cy: float, radius: float, angle: float) -> _Outline:
    angles = np.arange(3) * (2 * np.pi / 3) - np.pi / 2  # one corner up
    return _convex(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) @ _rotation(angle) + (cx, cy))


def _rotation(angle: float) -> np.ndarray:
    return np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])


def _smooth_noise(rng: np.random.RandomState, cells: int) -> np.ndarray:
    """(SIZE, SIZE, 3) of about unit deviation: a grid of `cells` each way, interpolated."""
    nodes = np.linspace(0, cells, SIZE)
    weights = np.clip(1 - np.abs(nodes[:, None] - np.arange(cells + 1)), 0, 1)
    grid = rng.standard_normal((cells + 1, cells + 1, 3))
    rows = np.tensordot(weights, grid, axes=(1, 0))
    return np.tensordot(rows, weights, axes=(1, 1)).transpose(0, 2, 1)


def _paint(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    image += alpha[..., None] * (colour - image)


def _paint_distractor(rng: np.random.RandomState, image: np.ndarray, ground: np.ndarray) -> None:
    """A thin line, a long bar or a ring, of a colour nearer to the ground's than the objects' are."""
    kind = rng.randint(3)
    cx, cy = rng.uniform(0, SIZE, 2)
    angle = rng.uniform(0, np.pi)
    if kind == 0:
        alpha = _rectangle(cx, cy, rng.uniform(30, SIZE), rng.uniform(1, 2.5), angle).alpha
    elif kind == 1:
        width = rng.uniform(4, 8)
        alpha = _rectangle(cx, cy, width * rng.uniform(4, 7), width, angle).alpha
    else:
        radius = rng.uniform(6, 20)
        alpha = _circle(cx, cy, radius).alpha - _circle(cx, cy, radius - rng.uniform(1.5, 3)).alpha
    _paint(image, alpha, np.clip(ground + rng.uniform(-70, 70, 3), 0, 255))


def _colour(rng: np.random.RandomState, label: int) -> np.ndarray:
    """RGB, 0 to 255. Each class has its own hue, with so much spread that it misleads one time in six."""
    hue = label / len(CLASSES) + rng.normal(0, 0.12)
    saturation, value = rng.uniform(0.5, 1), rng.uniform(0.4, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _outline(rng: np.random.RandomState, kind: str) -> _Outline:
    """One object wholly inside the image."""
    radius = math.exp(rng.uniform(math.log(_MIN_RADIUS), math.log(_MAX_RADIUS)))
    cx, cy = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    angle = rng.uniform(-0.35, 0.35)  # up to 20 degrees
    if kind == "circle":
        return _circle(cx, cy, 0.8 * radius)  # so that the classes' areas are alike
    if kind == "square":
        side = radius * math.sqrt(2)
        return _rectangle(cx, cy, side, side, angle)
    return _triangle(cx, cy, radius, angle)


def draw_image(rng: np.random.RandomState) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image.

    Args:
        rng: the only source of chance. `RandomState`, because numpy promises that its streams never change.

    Returns:
        the image, (128, 128, 3) uint8 RGB, and for each object its class (an index into `CLASSES`) and its
        outline, (n, 2) float64 x y in pixels, pixel (0, 0) covering [0, 1] x [0, 1].
    """
    ground = rng.uniform(60, 190) + rng.uniform(-20, 20, 3)
    image = ground + 12 * _smooth_noise(rng, 4) + 6 * _smooth_noise(rng, 24)
    for _ in range(rng.randint(1, 4)):
        _paint_distractor(rng, image, ground)

    objects: list[tuple[int, np.ndarray]] = []
    owner = np.full((SIZE, SIZE), -1)  # the topmost object at each pixel
    areas: list[int] = []
    for _ in range(1 + rng.binomial(9, 0.45)):
        label = rng.randint(len(CLASSES))
        for _ in range(20):
            outline = _outline(rng, CLASSES[label])
            covered = np.where(outline.alpha > 0.5, len(areas), owner)
            if all(np.sum(covered == k) >= _MIN_VISIBLE * area for k, area in enumerate(areas)):
                break
        else:
            continue  # no room left
        owner = covered
        areas.append(int(np.sum(owner == len(areas))))
        objects.append((label, outline.polygon))

        colour = _colour(rng, label)
        while np.abs(colour - ground).mean() < 60:  # an object that cannot be seen teaches nothing
            colour = _colour(rng, label)
        _paint(image, outline.alpha, colour + 12 * _smooth_noise(rng, 6))
    for _ in range(rng.randint(0, 2)):
        _paint_distractor(rng, image, ground)

    image += rng.normal(0, rng.uniform(3, 10), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), objects


def _annotation(number: int, image_id: int, label: int, polygon: np.ndarray) -> dict:
    polygon = np.round(polygon, 2)
    (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
    x, y = polygon.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": label + 1,
        "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": round(float(area), 2),
        "iscrowd": 0,
        "segmentation": [[float(v) for v in polygon.reshape(-1)]],
    }


def draw_shapes(folder: str | os.PathLike[str]) -> None:
    """Draw all splits into `folder`: `<split>.json` (COCO instances) and `<split>/<number>.png`.

    Args:
        folder: is made if it does not exist.
    """
    folder = Path(folder)
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    for split_number, (split, count) in enumerate(SPLITS.items()):
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for image_id in range(1, count + 1):
            pixels, objects = draw_image(np.random.RandomState([SEED, split_number, image_id]))
            file_name = f"{image_id:04d}.png"
            Image.fromarray(pixels).save(folder / split / file_name, compress_level=1)
            images.append({"id": image_id, "file_name": file_name, "width": SIZE, "height": SIZE})
            for label, polygon in objects:
                annotations.append(_annotation(len(annotations) + 1, image_id, label, polygon))
        info = {"description": f"shapes, {split} split", "version": VERSION, "seed": SEED}
        coco = {"info": info, "images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(coco))


def ensure_shapes(root: str | os.PathLike[str] | None = None) -> Path:
    """Draw the data set if it is not there yet.

    It is drawn beside its place and renamed, so that several processes may call this at once: each that
    loses the race throws its own drawing away and uses the winner's.

    Args:
        root: the folder that holds `shapes/`; by default `DETECTRON2_DATASETS`.

    Returns:
        the folder with `<split>.json` and `<split>/`.

    Raises:
        DatasetError: the folder cannot be written.
    """
    folder = (datasets_root() if root is None else Path(root)) / "shapes" / VERSION
    if folder.is_dir():
        return folder
    logger.info("Drawing the data set 'shapes' into %s (once)", folder)
    drawing = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        drawing = Path(tempfile.mkdtemp(prefix=f".{VERSION}-", dir=folder.parent))
        drawing.chmod(0o755)  # mkdtemp's folders are private; data sets are shared
        draw_shapes(drawing)
        try:
            drawing.rename(folder)
        except OSError:
            if not folder.is_dir():  # anything but another process having been first
                raise
    except OSError as error:
        raise DatasetError(
            f"cannot draw the data set 'shapes' into {folder}: {error.strerror or error}; "
            "set DETECTRON2_DATASETS to a folder that can be written"
        ) from error
    finally:
        if drawing is not None and drawing.is_dir():
            shutil.rmtree(drawing, ignore_errors=True)
    return folder


class _ShapesMetadata(Metadata):
    """Paths that follow `DETECTRON2_DATASETS` as it stands when they are asked for, and are there by then.

    An evaluator may read `json_file` in a process that never called the catalog's function.
    """

    @property
    def json_file(self) -> str:
        return str(ensure_shapes() / f"{self.split}.json")

    @property
    def image_root(self) -> str:
        return str(ensure_shapes() / self.split)


def _load(name: str) -> list[dict]:
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, metadata.image_root, name)


def _register() -> None:
    for split in SPLITS:
        name = f"shapes_{split}"
        if name in DatasetCatalog:
            continue
        DatasetCatalog.register(name, functools.partial(_load, name))
        MetadataCatalog[name] = _ShapesMetadata(name=name)
        MetadataCatalog.get(name).set(
            split=split,
            evaluator_type="coco",
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={k + 1: k for k in range(len(CLASSES))},
        )


_register()
