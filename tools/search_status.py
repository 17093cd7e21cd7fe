#!/usr/bin/env python3
"""Tell how far a search is."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

EXAMPLES = """
examples:
  python tools/search_status.py output/bccd

  # again every minute while the search runs
  watch -n 60 python tools/search_status.py output/bccd
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Progress, best loss so far, failures with their reasons, utilisation of the workers and time "
        "left of a search that runs or has ended. Reads its search.db and changes nothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="the search's --output-dir")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.search.status import read_search, status_text  # loads torch: not for --help
    from paramap_d2.search.store import StoreError

    try:
        search = read_search(options.output)
    except StoreError as error:
        print(f"search_status.py: error: {error}", file=sys.stderr)
        return 2
    try:
        print(status_text(*search), flush=True)
    except BrokenPipeError:  # read by something like head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
