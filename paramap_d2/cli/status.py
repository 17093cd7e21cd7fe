"""``paramap status``: tell how far a search is."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .parser import CommandParser

DESCRIPTION = """
Progress, best loss so far, failures with their reasons, utilisation of the workers and time left of a search that runs
or has ended. Reads its search.db and changes nothing.
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
    from paramap_d2.search.status import read_search, status_text

    search = read_search(options.output)
    try:
        print(status_text(*search), flush=True)
    except BrokenPipeError:  # read by something like head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
