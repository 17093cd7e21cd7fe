"""``paramap compare``: several searches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paramap_d2.errors import UserError

from .parser import CommandParser

DESCRIPTION = """
Print a table of several searches, running or ended (the best loss, the gain over the start with its interval, training
time, failures), and write a page with the same, AP over proxies and over hours, and the settings in which they differ.
"""

EXAMPLES = """
  paramap compare output/ga output/cmaes
  paramap compare output/ga output/cmaes output/random --output algorithms.html
"""


def build_parser() -> CommandParser:
    parser = CommandParser("compare", DESCRIPTION, EXAMPLES)
    parser.add_argument("searches", type=Path, nargs="+", metavar="OUT", help="the searches' --output-dir")
    parser.add_argument(
        "--output", type=Path, default=Path("compare.html"), metavar="FILE", help="the page (default compare.html)"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from tabulate import tabulate

    from paramap_d2.files import write_whole
    from paramap_d2.search.comparison import COLUMNS, read_searches
    from paramap_d2.search.report.compare import compare_html

    searches = read_searches(options.searches)
    print(tabulate([search.row() for search in searches], COLUMNS, disable_numparse=True), end="\n\n")
    try:
        write_whole(options.output, compare_html(searches).encode())
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror or error}") from error
    print(options.output)
    return 0
