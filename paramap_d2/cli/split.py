"""``paramap split``: make the search split of a data set in COCO form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import CommandParser

DESCRIPTION = """
Split a COCO JSON into a part to search on and a part held out to judge by. Every class that has at least two images is
in both. No image is copied.
"""

EXAMPLES = """
  # COCO: makes the files behind coco_2017_train_search and coco_2017_train_searchval
  paramap split $DETECTRON2_DATASETS/coco/annotations/instances_train2017.json --held-out 5000

  # your own data: hold out a fifth of the images, in files of your own naming
  paramap split train.json --held-out 0.2 --seed 1 --output search.json searchval.json

Then train the search on the first part and judge on the second, as DATASETS.TRAIN and DATASETS.TEST. COCO's
two names are registered. For your own data list the parts in a JSON file,
  {"my_search":    {"json_file": "search.json",    "image_root": "images"},
   "my_searchval": {"json_file": "searchval.json", "image_root": "images"}}
(paths relative to that file) and set the environment variable PARAMAP_DATASETS to it.
"""


def size(text: str) -> float | int:
    """'0.1' is a fraction, '5000' a number of images."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def build_parser() -> CommandParser:
    parser = CommandParser("split", DESCRIPTION, EXAMPLES)
    parser.add_argument("json_file", type=Path, help="annotations in COCO's instances format")
    parser.add_argument(
        "--held-out",
        type=size,
        default=0.1,
        metavar="SIZE",
        help="images in the second part: a fraction such as 0.1, or a number such as 5000 (default 0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which images (default 0)")
    parser.add_argument(
        "--output",
        type=Path,
        nargs=2,
        metavar=("SEARCH", "SEARCHVAL"),
        help="the two files (default: beside the source, its name with _search and _searchval)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.data.split import split_file

    source: Path = options.json_file
    outputs = options.output or [
        source.with_name(f"{source.stem}_{part}{source.suffix}") for part in ("search", "searchval")
    ]
    parts = split_file(source, *outputs, options.held_out, options.seed)
    for path, part, what in zip(outputs, parts, ("to train on", "held out"), strict=True):
        print(f"{path}, {what}: {len(part['images'])} images, {len(part['annotations'])} annotations")
    return 0
