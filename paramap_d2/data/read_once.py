"""Images that are read again and again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from detectron2.data import detection_utils
from torch.utils.data import get_worker_info

LIMIT = 2**29
"""Bytes of decoded images that a process holds, at most."""

_images: dict[tuple[str, str | None], np.ndarray] = {}


@contextlib.contextmanager
def images_read_once() -> Iterator[None]:
    """For the length of the context, Detectron2's data mappers get a copy of each image that this process has read in
    such a context before. The images of a small data set so are decoded once in the life of a process that trains on
    them many times; of a large one, as many as ``LIMIT`` allows. Image files must not change meanwhile.

    Processes of a loader (``DATALOADER.NUM_WORKERS``) do not outlive a training, and hold no more than they start with.
    """
    read_image = detection_utils.read_image
    held = sum(image.nbytes for image in _images.values())

    def read(file_name: str | os.PathLike[str], format: str | None = None) -> np.ndarray:
        nonlocal held
        key = os.path.abspath(file_name), format
        if key in _images:
            return _images[key].copy()
        image = read_image(file_name, format)
        if get_worker_info() is None and held + image.nbytes <= LIMIT:
            held += image.nbytes
            _images[key] = np.array(image, order="C")  # Detectron2's is a view of another order of channels
        return image

    detection_utils.read_image = read
    try:
        yield
    finally:
        detection_utils.read_image = read_image
