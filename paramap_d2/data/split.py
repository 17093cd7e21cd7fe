"""Split a data set in COCO form into two, so that a search has data of its own to train and to judge on."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from paramap_d2.errors import UserError
from paramap_d2.files import write_whole

from .coco_file import read_coco

_ATTEMPTS = 20  # other orders to deal in before giving up; nearly always the first succeeds

__all__ = ["SplitError", "split_coco", "split_file"]


class SplitError(UserError):
    """The split cannot be made as asked. The message is one line for the user."""


def split_coco(coco: dict, held_out: float | int, seed: int = 0) -> tuple[dict, dict]:
    """Split the images, so that every class with at least two images is in both parts.

    Iterative stratification (Sechidis et al., ECML PKDD 2011): the images of the rarest class are dealt out
    first, each to the part that lacks the class most, then those of the next. What that leaves undone is
    mended by exchanging images. An image has a class if it has an annotation of it that is not `iscrowd`.

    Args:
        coco: the parsed JSON: `images`, `annotations`, `categories`; other keys go into both parts.
        held_out: size of the second part: a fraction (float in (0, 1)) or a number of images (int).
        seed: decides which images; the same seed and data give the same parts.

    Returns:
        the first and the second part, images and annotations in the order of the whole.

    Raises:
        SplitError: the size is out of range, or no split was found that has every class in both parts.
    """
    images = [image["id"] for image in coco["images"]]
    size = _size(held_out, len(images))
    classes: dict[int, set[int]] = {image: set() for image in images}
    for item in coco["annotations"]:
        if not item.get("iscrowd", 0) and item["image_id"] in classes:
            classes[item["image_id"]].add(item["category_id"])

    total = Counter(c for image in images for c in classes[image])
    for image in images:  # a class with a single image asks for nothing
        classes[image] = {c for c in classes[image] if total[c] >= 2}
    for attempt in range(_ATTEMPTS):
        order = list(images)
        Random(f"{seed}/{attempt}").shuffle(order)
        part = _deal(order, classes, size)
        _mend(order, classes, part)
        inside = Counter(c for image in images if part[image] for c in classes[image])
        lacking = [c for c, n in sorted(total.items()) if n >= 2 and not 0 < inside[c] < n]
        if not lacking:
            return _select(coco, part, False), _select(coco, part, True)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    listed = ", ".join(f"'{names.get(c, c)}'" for c in lacking[:5]) + (", …" if len(lacking) > 5 else "")
    raise SplitError(
        f"with {size} of {len(images)} images held out, no split was found with all classes in both parts "
        f"(lacking: {listed}): change the size or the seed"
    )


def _size(held_out: float | int, count: int) -> int:
    if isinstance(held_out, float):
        if not 0 < held_out < 1:
            raise SplitError(f"the fraction to hold out must lie between 0 and 1, not {held_out:g}")
        size = round(held_out * count)
    else:
        size = held_out
    if not 0 < size < count:
        raise SplitError(f"cannot hold out {size} of {count} images: both parts need at least one")
    return size


def _deal(order: list[int], classes: dict[int, set[int]], size: int) -> dict[int, bool]:
    """Which images are held out. Exactly `size` of them are."""
    total = Counter(c for image in order for c in classes[image])
    wanted = {}  # by class, the images of it that each part still lacks
    for c, n in total.items():
        held_out = min(max(n * size / len(order), 1), n - 1)
        wanted[c] = [n - held_out, held_out]
    room = [len(order) - size, size]
    members = defaultdict(list)
    for image in order:
        for c in classes[image]:
            members[c].append(image)

    part: dict[int, bool] = {}

    def put(image: int, side: int) -> None:
        part[image] = bool(side)
        room[side] -= 1
        for c in classes[image]:
            wanted[c][side] -= 1
            total[c] -= 1

    while total := +total:  # the classes with images left to deal
        rarest = min(total, key=lambda c: (total[c], c))
        for image in members[rarest]:
            if image in part:
                continue
            sides = [side for side in (0, 1) if room[side]]
            put(image, max(sides, key=lambda side: (wanted[rarest][side], room[side])))
    for image in order:  # without any class
        if image not in part:
            put(image, 0 if room[0] * size >= room[1] * (len(order) - size) and room[0] else int(room[1] > 0))
    return part


def _mend(order: list[int], classes: dict[int, set[int]], part: dict[int, bool]) -> None:
    """Exchange images, in place, for as long as that brings a class into a part that lacks it."""
    total = Counter(c for image in order for c in classes[image])
    inside = Counter(c for image in order if part[image] for c in classes[image])

    def lacks(counts: Counter, among: set[int]) -> int:
        return sum(not 0 < counts[c] < total[c] for c in among)

    for c in sorted(total, key=lambda c: (total[c], c)):
        if not lacks(inside, {c}):
            continue
        full_side = inside[c] > 0  # the part that has every image of the class
        givers = [image for image in order if c in classes[image]]
        takers = [image for image in order if part[image] != full_side]
        for giver, taker in ((g, t) for g in givers for t in takers):
            step = 1 if part[taker] else -1
            after = inside.copy()
            for moved, sign in ((taker, -step), (giver, step)):
                for k in classes[moved]:
                    after[k] += sign
            touched = classes[giver] | classes[taker]
            if lacks(after, touched) < lacks(inside, touched):
                part[giver], part[taker] = part[taker], part[giver]
                inside = after
                break


def _select(coco: dict, part: dict[int, bool], side: bool) -> dict:
    images = [image for image in coco["images"] if part[image["id"]] == side]
    annotations = [item for item in coco["annotations"] if part.get(item["image_id"]) == side]
    return {**coco, "images": images, "annotations": annotations}


def split_file(
    source: str | os.PathLike[str],
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    held_out: float | int,
    seed: int = 0,
) -> tuple[dict, dict]:
    """Split a COCO JSON file into two files, neither of which may exist; see `split_coco`.

    Each file is written beside its place and put there in one step; if the second cannot be, the first is
    taken away again.

    Raises:
        SplitError: also when a file exists or cannot be written.
        DatasetError: the source cannot be read as COCO's instances.
    """
    source, targets = Path(source), [Path(first), Path(second)]
    for target in targets:
        if target.exists():
            raise SplitError(f"{target} exists and is not overwritten: remove it, or name another output")
    if targets[0].resolve() == targets[1].resolve():
        raise SplitError(f"both parts would be written to {targets[0]}: name two files")
    parts = split_coco(_read(source), held_out, seed)
    written: list[Path] = []
    try:
        for target, part in zip(targets, parts, strict=True):
            write_whole(target, json.dumps(part).encode())
            written.append(target)
    except OSError as error:
        for path in written:
            path.unlink()
        raise SplitError(f"cannot write {target}: {error.strerror or error}") from error
    return parts


def _read(source: Path) -> dict:
    coco = read_coco(source)
    if "annotations" not in coco:
        raise SplitError(f"{source} has no list 'annotations': there is nothing to split by")
    return coco
