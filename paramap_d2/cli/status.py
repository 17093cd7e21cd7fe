"""``paramap status``: tell how far a search is."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from paramap_d2.errors import UserError

from .parser import CommandParser

DESCRIPTION = """
Whether a search is running, done, interrupted, failed or dead; progress, best loss so far, failures with their reasons,
utilisation of the workers, time left, what runs now, and the command to type next. Reads OUT and changes nothing there.

With --watch the same again and again in the terminal, until the search has ended; with --serve as a page for a browser:
the report and what runs now, fresh while it is open. Ctrl-C ends both (exit status 0); the search goes on.
"""

EXAMPLES = """
  paramap status output/search
  paramap status output/search --watch
  paramap status output/search --serve
  paramap status output/search --serve 9000

  # a search on another machine, in a browser on this one
  ssh -L 8765:127.0.0.1:8765 MACHINE paramap status output/search --serve 8765
"""

ANY = -1
"""``--serve`` without a port."""


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a port is a number, not {text!r}; OUT comes before --serve") from None
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"a port is from 0 (any that is free) to 65535, not {port}")
    return port


def build_parser() -> CommandParser:
    parser = CommandParser("status", DESCRIPTION, EXAMPLES)
    parser.add_argument("output", type=Path, metavar="OUT", help="the search's --output-dir")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="keep telling, until the search has ended")
    how.add_argument(
        "--serve",
        nargs="?",
        type=_port,
        const=ANY,
        metavar="PORT",
        help="serve a live page, at this port or by default at 8765 or, where that is taken, at any that is free",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="with --serve: the address to serve at (default 127.0.0.1, this machine alone); whoever reaches it can "
        "read the search",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.host and options.serve is None:
        raise UserError("--host is an option of --serve (see paramap status --help)")
    if options.serve is not None or options.watch:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C
        try:
            _serve(options.output, options.host, options.serve) if options.serve is not None else _watch(options.output)
        except KeyboardInterrupt:  # the way to end it
            pass
        return 0
    from paramap_d2.search.life import overview

    _, text = overview(options.output)
    print(text)
    return 0


def _watch(output: Path) -> None:
    from rich.console import Console

    from paramap_d2.search.watch import watch

    watch(output, Console(highlight=False))


def _serve(output: Path, host: str | None, port: int) -> None:
    from paramap_d2.search import server

    with server.server(output, host or server.LOOPBACK, None if port == ANY else port) as serving:
        print(f"{server.address(serving)} shows {output}; Ctrl-C ends this, and not the search", flush=True)
        serving.serve_forever()
