"""Test images given to the model some at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

HELD = 8
"""Batches' worth of images that may wait for others of their size."""


class SameSizeBatches:
    """A test loader's images in batches of one size, so that none is padded and each is detected as if it were alone.

    Detectron2's test loaders give one image at a time, which leaves a device waiting and, on a CPU, takes the slower
    of the convolution's algorithms.

    Args:
        loader: gives lists of dicts with a (C, H, W) ``image``, as Detectron2's test loaders do; sized.
        images: in a batch, at most.
    """

    def __init__(self, loader: Iterable[list[dict[str, Any]]], images: int):
        if images < 1:
            raise ValueError(f"images must be at least 1, not {images}")
        self.loader, self.images = loader, images

    def __len__(self) -> int:
        """Batches at most."""
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        waiting: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
        held = 0
        for inputs in self.loader:
            for one in inputs:
                size = tuple(one["image"].shape)
                waiting[size].append(one)
                held += 1
                if len(waiting[size]) < self.images:
                    if held < HELD * self.images:
                        continue
                    size = max(waiting, key=lambda s: len(waiting[s]))
                batch = waiting.pop(size)
                held -= len(batch)
                yield batch
        yield from waiting.values()
