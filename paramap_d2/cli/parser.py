"""How the subcommands read their options."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from paramap_d2.errors import UserError

LATE = "options come before the first KEY VALUE"


class CommandParser(argparse.ArgumentParser):
    """The parser of ``paramap COMMAND``. What is wrong with an option is a UserError: one line that names the option as
    it is typed.

    Args:
        command: the subcommand's name.
        description: what it does.
        examples: commands as a user types them, indented by two.
    """

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"paramap {command}",
            description=description.strip(),
            epilog="examples:\n" + examples.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._given: list[str] = []

    def add_import_option(self, what: str) -> None:
        """``--import MODULE``, which becomes ``imports``; ``what`` says where it is imported, and what for."""
        self.add_argument(
            "--import",
            action="append",
            default=[],
            dest="imports",
            metavar="MODULE",
            help=f"import it {what} that the config names; its add_…_config functions add their keys; may be given "
            "several times",
        )

    def add_config_options(self, help: str) -> None:
        """The options of a config at the end of the command line, as Detectron2 has them: they become ``opts``."""
        self.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        options = super().parse_args(args, namespace)
        opts = getattr(options, "opts", ())
        for option in opts:
            if option.split("=")[0] in self._option_string_actions:
                self.error(f"{option.split('=')[0]}: {LATE}, which {opts[0]} was taken for")
        return options

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        required, _, names = message.partition(": ")
        given = {word.split("=")[0] for word in self._given}
        late = [name for name in names.split(", ") if name in given]
        if required == "the following arguments are required" and late:
            message = f"{late[0]}: {LATE}, which a word before it was taken for"
        if message.startswith("unrecognized arguments: "):
            near = difflib.get_close_matches(message.split()[2], self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{message} (see {self.prog} --help)")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from ``least`` on."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return number


def positive(text: str) -> float:
    """The type of an option that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value
