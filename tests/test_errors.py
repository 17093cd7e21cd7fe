import subprocess
import sys

import pytest

from paramap_d2.errors import NoResultError, UserError, exit_status


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "command, status, line",
    [
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (raising(UserError("no such file")), 2, "error: no such file\n"),
        (raising(NoResultError("nothing was found")), 1, "error: nothing was found\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (raising(KeyboardInterrupt("go on with --resume")), 130, "interrupted; go on with --resume\n"),
    ],
)
def test_how_a_command_ends(command, status, line, capsys):
    assert exit_status(command) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("lines", [1, 100_000])  # met when the interpreter ends, and on the way
def test_a_reader_that_has_seen_enough_is_no_fault(lines):
    script = f"""
import sys
from paramap_d2.errors import exit_status

def command():
    sys.stdin.read()
    for line in range({lines}):
        print("a line", line)

sys.exit(exit_status(command))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    )
    process.stdout.close()  # as head does
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "error", [ValueError("a fault"), OSError(5, "x"), BrokenPipeError(32, "a worker's"), SystemExit(3)]
)
def test_what_is_no_mistake_of_the_user_passes(error):
    with pytest.raises(type(error)):
        exit_status(raising(error))
