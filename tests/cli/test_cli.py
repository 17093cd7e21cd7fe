import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import paramap_d2.cli
from paramap_d2.cli import COMMANDS, main, run
from paramap_d2.cli.parser import CommandParser

ROOT = Path(__file__).parents[2]
OLD_NAMES = {
    "evolve": "evolve",
    "status": "search_status",
    "plot": "plot_loss",
    "split": "split_dataset",
    "demo": "demo",
    "get-detectron2": "get_detectron2",
}


def module(name):
    return import_module(f"paramap_d2.cli.{name.replace('-', '_')}")


def test_a_command_is_a_line_and_a_file():
    files = {path.stem for path in Path(paramap_d2.cli.__file__).parent.glob("*.py")} - {"__init__", "parser"}
    assert files == {name.replace("-", "_") for name in COMMANDS}
    for name, what in COMMANDS.items():
        assert what[0].islower() and not what.endswith(".") and len(what) < 90
        assert isinstance(module(name).build_parser(), CommandParser) and callable(module(name).main)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", output, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_of_the_command_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    examples = output[output.index("examples:\n") :]
    assert f"paramap {name}" in examples and f"usage: paramap {name}" in output
    assert max(map(len, examples.splitlines())) <= 120
    # Every option of an example is one of the command's.
    options = module(name).build_parser()._option_string_actions
    for command in examples.replace("\\\n", " ").splitlines():
        if f"paramap {name} " in command:
            assert set(re.findall(r"(?<!\S)--[a-z0-9-]+", command)) <= set(options), command


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_named_in_one_line_before_torch_is_loaded(name):
    code = f"""
import sys
from paramap_d2.cli import main
status = main([{name!r}, "--no-such-option"])
assert status == 2, status
loaded = {{"torch", "detectron2", "matplotlib", "transformers", "ray"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"(see paramap {name} --help)\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evlove"], "error: paramap has no command 'evlove'; did you mean evolve?\n"),
        (["zzz"], f"error: paramap has no command 'zzz'; there are {', '.join(COMMANDS)}\n"),
    ],
)
def test_an_unknown_command(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == message


def test_no_command_prints_help_and_fails(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_exit_status(monkeypatch, capsys):
    given = []

    class Command:
        @staticmethod
        def main(arguments):
            given.append(arguments)
            return 1

    monkeypatch.setattr(paramap_d2.cli.importlib, "import_module", lambda name: Command)
    monkeypatch.setattr(sys, "argv", ["tools/search_status.py", "OUT"])
    assert run("status") == 1 and run("status", ("a", "b")) == 1
    assert given == [["OUT"], ["a", "b"]]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", OLD_NAMES)
def test_tools_are_the_commands_by_their_old_names(name):
    done = subprocess.run(
        [sys.executable, f"tools/{OLD_NAMES[name]}.py", "--no-such-option"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and f"(see paramap {name} --help)" in done.stderr
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == set(OLD_NAMES.values())


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "paramap_d2", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"paramap_d2 {paramap_d2.__version__}\n"
