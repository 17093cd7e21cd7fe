"""``paramap report``: render a search's page anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paramap_d2.errors import UserError

from .parser import CommandParser

DESCRIPTION = """
Render the page of a search, running or ended, anew from its store: report.html. A search writes it by itself after
every generation; this is for a page of now, with a newer version of this package, or elsewhere.
"""

EXAMPLES = """
  paramap report output/search
  paramap report /read-only/search --output page.html
"""


def build_parser() -> CommandParser:
    parser = CommandParser("report", DESCRIPTION, EXAMPLES)
    parser.add_argument("search", type=Path, metavar="OUT", help="the search's --output-dir")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: OUT/report.html)")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.search.report.page import write_report
    from paramap_d2.search.status import read_search, searched_space

    evaluations, settings = read_search(options.search)
    space = searched_space(options.search, settings)
    path = options.output or options.search / "report.html"
    try:
        write_report(evaluations, space, settings, path, options.search)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    print(path)
    return 0
