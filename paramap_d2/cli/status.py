"""``paramap status``: tell how far a search is."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .parser import CommandParser

DESCRIPTION = """
Whether a search is running, done, interrupted, failed or dead; progress, best loss so far, failures with their reasons,
utilisation of the workers, time left, what runs now, and the command to type next. Reads OUT and changes nothing there.
"""

EXAMPLES = """
  paramap status output/search

  # again every minute while the search runs
  watch -n 60 paramap status output/search
"""


def build_parser() -> CommandParser:
    parser = CommandParser("status", DESCRIPTION, EXAMPLES)
    parser.add_argument("output", type=Path, metavar="OUT", help="the search's --output-dir")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.search.life import overview

    text = overview(options.output)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # read by something like head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
