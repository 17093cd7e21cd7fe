"""A picture of what a detector sees."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from paramap_d2.files import write_whole

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Of classes, over and over: Okabe and Ito's, apart for every kind of colour vision."""


def draw_detections(
    model: nn.Module,
    inputs: Sequence[dict[str, Any]],
    dataset_name: str,
    path: str | os.PathLike[str],
    threshold: float = 0.5,
    columns: int = 4,
) -> int:
    """Draw images with the detections that score at least a threshold, each with its class and score.

    Args:
        model: a detector; it is put into inference mode.
        inputs: Detectron2's, with ``file_name``, ``height`` and ``width``, as its test loaders give them.
        dataset_name: whose class names are written.
        path: of the picture; its suffix says in which format.
        columns: of the grid of images.

    Returns:
        how many detections were drawn.
    """
    names = MetadataCatalog.get(dataset_name).thing_classes
    model.eval()
    with torch.no_grad():
        outputs = [output["instances"].to("cpu") for output in model(list(inputs))]
    rows = math.ceil(len(inputs) / columns)
    figure = Figure(figsize=(2.4 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    drawn = 0
    for ax in axes.flat:
        ax.axis("off")
    for ax, x, instances in zip(axes.flat, inputs, outputs, strict=False):
        ax.imshow(read_image(x["file_name"], "RGB"))
        kept = instances[instances.scores >= threshold]
        _draw(ax, kept, names)
        drawn += len(kept)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix.removeprefix("."), dpi=100)
    write_whole(path, picture.getvalue())
    return drawn


def _draw(ax: Axes, instances: Instances, names: Sequence[str]) -> None:
    instances = instances[instances.scores.argsort()]  # the surest on top
    boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
    for (x0, y0, x1, y1), score, label in zip(boxes, scores, instances.pred_classes.tolist(), strict=True):
        colour = COLOURS[label % len(COLOURS)]
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.6))
        ax.text(
            x0,
            y0,
            f"{names[label]} {score:.2f}",
            fontsize=6.5,
            color="white",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
            clip_on=True,
        )
