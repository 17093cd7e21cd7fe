"""``paramap enqueue``: put losses beside those that a search asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import CommandParser

DESCRIPTION = """
Add losses to a search that runs or is to be resumed: they are trained and compared with its next generation. The
algorithm ga goes on from them as from its own; cmaes, ppo and random learn from their own draws alone. Each keeps its
name in status, report and exports.
"""

EXAMPLES = """
  paramap enqueue output/search retinanet-coco
  paramap enqueue output/search other_search/best.json mine.json
"""


def build_parser() -> CommandParser:
    parser = CommandParser("enqueue", DESCRIPTION, EXAMPLES)
    parser.add_argument("search", type=Path, metavar="OUT", help="the search's --output-dir")
    parser.add_argument("losses", nargs="+", metavar="LOSS", help="a preset or a loss file")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.search.enqueued import enqueue

    print(enqueue(options.search, options.losses))
    return 0
