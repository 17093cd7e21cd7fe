"""What a user can put right, and how a command ends."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input: a config, data set, loss file or option. The message is one line that names what is wrong and how to
    mend it; command lines print it without a traceback and exit with status 2."""


class NoResultError(Exception):
    """What was asked for ran, and there is no result. The message is one line that says why; command lines print it
    without a traceback and exit with status 1."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command and say how it ended, as every command of this project does.

    Args:
        command: returns 1 where it ran and has no result, such as a search without a finished proxy; else 0 or None.

    Returns:
        what it returned, 2 for a :class:`UserError` and 1 for a :class:`NoResultError` (one line on stderr), 130 if it
        was interrupted (one line, with the KeyboardInterrupt's text if it has one), and 141, as a shell has it, if
        whoever read its output, such as head, has gone. Any other exception is a fault of the program and passes.
    """
    try:
        status = command() or 0
        sys.stdout.flush()  # what was printed and not written yet fails here, and not when the interpreter ends
        return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NoResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether it is the standard output whose pipe is broken, and not, say, a worker's."""
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))
