"""Where the data sets live, and the check that they are there before anything starts."""

from __future__ import annotations

import difflib
import functools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from paramap_d2.errors import UserError

__all__ = ["DatasetError", "check_datasets", "coco_json", "datasets_root"]

logger = logging.getLogger(__name__)

# What to tell a user whose folder is missing, beside the environment variable.
_HOMES = {
    "bccd": "BCCD's public home is the GitHub repository Shenggan/BCCD_Dataset",
    "coco": "COCO's public home is cocodataset.org",
    "voc": "Pascal VOC's public home is host.robots.ox.ac.uk/pascal/VOC",
}


class DatasetError(UserError):
    """A data set is not registered, not there, or not readable. The message is one line for the user."""


def datasets_root() -> Path:
    """The folder that holds the data sets: `DETECTRON2_DATASETS`, or `datasets` as in Detectron2."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


def missing(name: str, path: str | os.PathLike[str]) -> DatasetError:
    """The error for a data set whose file or folder `path` does not exist."""
    if not os.fspath(path).startswith(str(datasets_root())):  # the user's own
        return DatasetError(f"data set '{name}' needs {os.fspath(path)}, which does not exist")
    home = _HOMES.get(name.split("_")[0], "")
    return DatasetError(
        f"data set '{name}' needs {os.fspath(path)}, which does not exist: set DETECTRON2_DATASETS "
        f"to the folder that holds the data sets (now '{datasets_root()}')" + (f"; {home}" if home else "")
    )


def coco_json(name: str) -> str | None:
    """The file of a registered data set in COCO's instances form; None for one of another form. That of LVIS, say, has
    a file of its own form, which only who registered it can read."""
    metadata = MetadataCatalog.get(name)
    return metadata.get("json_file") if metadata.get("evaluator_type", "coco").startswith("coco") else None


unread: list[str] = []
"""Why the user's own list of data sets was not read to its end."""


def check_datasets(names: str | Iterable[str]) -> None:
    """Raise unless every data set is registered and its files are there.

    Meant for command lines, before a model is built or a worker started. Checks the annotation file, the
    image folder, and for Pascal VOC's form the image list; it does not open every image. `shapes_*` are
    drawn by the check if they are not there yet.

    Args:
        names: one name or several, as in `DATASETS.TRAIN`.

    Raises:
        DatasetError: names the first data set that cannot be used, and how to mend it.
    """
    for name in [names] if isinstance(names, str) else names:
        if name not in DatasetCatalog and unread:
            raise DatasetError(f"data set '{name}' is not registered, since {unread[-1]}")
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise DatasetError(
                f"data set '{name}' is not registered: {hint}Name your own COCO files in a file that PARAMAP_DATASETS "
                "points to, or register it in a module that --import names (paramap evolve and calibrate)"
            )
        metadata = MetadataCatalog.get(name)
        paths = [metadata.get(key) for key in ("dirname", "json_file", "image_root")]
        if metadata.get("dirname") and metadata.get("split"):
            paths.append(os.path.join(metadata.dirname, "ImageSets", "Main", f"{metadata.split}.txt"))
        for path in paths:
            if path and not PathManager.exists(os.fspath(path)):
                raise missing(name, path)


@functools.cache  # once a process, however often the data set is read
def warn_of_empty_boxes(name: str, boxes: tuple[str, ...]) -> None:
    """Say that boxes without width or height are no objects, neither in training nor in evaluation."""
    logger.warning(
        "data set '%s': left out %d boxes without width or height: %s", name, len(boxes), the_first_few(boxes)
    )


def the_first_few(places: Sequence[str]) -> str:
    """What a line names of many."""
    return "; ".join(places[:5]) + ("; ..." if len(places) > 5 else "")
