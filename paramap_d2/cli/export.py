"""``paramap export``: take a search out of its store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import CommandParser

DESCRIPTION = """
Write every evaluation of a search, running or ended, to a file: csv or json for a table (one row an evaluation, one
column a gene; in Python: paramap_d2.search.load(OUT)), optuna for a storage that optuna-dashboard and Optuna's plots
open: genes as parameters, repeats and statuses kept, what follows the search as a study of its own.
"""

EXAMPLES = """
  paramap export output/search --format csv
  paramap export output/search --format json --output search.json

  # look at it with Optuna's dashboard (pip install optuna-dashboard)
  paramap export output/search --format optuna --output search_optuna.db
  optuna-dashboard sqlite:///search_optuna.db
"""

SUFFIXES = {"csv": ".csv", "json": ".json", "optuna": "_optuna.db"}


def build_parser() -> CommandParser:
    parser = CommandParser("export", DESCRIPTION, EXAMPLES)
    parser.add_argument("search", type=Path, metavar="OUT", help="the search's --output-dir")
    parser.add_argument("--format", choices=list(SUFFIXES), default="csv", help="of the file (default csv)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the file (default: named after OUT, in the current folder)"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.search.export import export

    path = options.output or Path(options.search.absolute().name + SUFFIXES[options.format])
    export(options.search, options.format, path)
    print(path)
    return 0
