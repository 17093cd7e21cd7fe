"""The command ``paramap``: one module a subcommand.

A subcommand is a line in :data:`COMMANDS` and a module of its name (``-`` becomes ``_``) with

- ``build_parser()``, which returns a :class:`~paramap_d2.cli.parser.CommandParser`, and
- ``main(arguments)``, which parses ``arguments`` with it, does the work and returns an exit status, as
  :func:`~paramap_d2.errors.exit_status` has it: 0, or 1 where there is no result. It raises UserError for a user's
  mistake.

The modules import nothing slow at their top, torch and Detectron2 least of all: help and a mistyped option are answered
at once. What a command needs it imports in ``main``, once the options are known to be good.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from paramap_d2 import __version__
from paramap_d2.errors import UserError, exit_status

COMMANDS = {
    "evolve": "search a loss for a detector and its data",
    "status": "tell how far a search is: once, in the terminal, or as a live page",
    "enqueue": "put losses beside those that a search asks for",
    "report": "render a search's page anew",
    "compare": "put several searches side by side",
    "export": "take a search out of its store: a table, or a study of Optuna's",
    "plot": "draw the functions of losses",
    "train": "train or evaluate a detector that a YAML config describes",
    "train-lazy": "train or evaluate a detector that a LazyConfig describes",
    "calibrate": "make a detector's scores ones that can be thresholded",
    "split": "make the search split of a data set in COCO form",
    "demo": "search a loss on drawn shapes and train with it, in a few minutes",
    "get-detectron2": "install Detectron2's pure-Python part, unless there is a Detectron2",
}
"""What each subcommand does, in one line."""

EXAMPLES = """
examples:
  paramap get-detectron2
  paramap demo
  paramap evolve --config-file CONFIG --population 8 --generations 4 --workers 2 --output-dir output/search
  paramap train --config-file CONFIG MODEL.PARAM_AP.LOSS output/search/best.json OUTPUT_DIR output/final

paramap COMMAND --help tells about each. Exit status: 0 done; 1 it ran and has no result; 2 a mistake in what was asked
for, told in one line; 130 interrupted.
"""


def build_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="paramap",
        usage="paramap COMMAND [options]",
        description=f"The searched Parameterized AP Loss for Detectron2.\n\ncommands:\n{commands}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"paramap_d2 {__version__}")
    return parser


def run(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        name: one of :data:`COMMANDS`.
        arguments: what follows the name; by default what this process was started with.
    """
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    given = sys.argv[1:] if arguments is None else list(arguments)
    _without_warnings_of_others()
    return exit_status(lambda: module.main(given))


def _without_warnings_of_others() -> None:
    """Of what Detectron2's own code gives rise to, at each import in each process. Here, and not on import: a filter is
    everybody's."""
    for message, category in (
        ("`torch.jit.script` is deprecated", FutureWarning),
        ("pkg_resources is deprecated", UserWarning),
    ):
        warnings.filterwarnings("ignore", message=message, category=category)
        own = f"ignore:{message}:{category.__name__}"
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [own, os.environ.get("PYTHONWARNINGS")]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: ``paramap COMMAND …``."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in COMMANDS:
        return run(given[0], given[1:])
    if given and given[0] not in ("-h", "--help", "--version"):
        return exit_status(lambda: _unknown(given[0]))
    build_parser().parse_args(given)  # --help and --version end here
    build_parser().print_help(sys.stderr)
    return 2


def _unknown(name: str) -> int:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    raise UserError(f"paramap has no command {name!r}; {hint}")
