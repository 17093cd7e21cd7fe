"""LazyConfig files are executed once a process."""

import os

import pytest

from paramap_d2.config import ConfigError
from paramap_d2.config.lazy import execute, read_lazy_config
from paramap_d2.model_zoo import get_config_file

FILE = "from .common.base import numbers\nnumbers.append({more})\nmodel = dict(numbers=numbers)\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "base.py").write_text("import builtins\nbuiltins.executed += 1\nnumbers = [1]\n")
    (tmp_path / "config.py").write_text(FILE.format(more=2))
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    import builtins

    monkeypatch.setattr(builtins, "executed", 0, raising=False)
    return lambda: builtins.executed


def test_once_and_each_reader_has_a_copy(folder, executed):
    first = execute(folder / "config.py")
    first.model.numbers[0] = 9
    assert execute(folder / "config.py").model.numbers == [1, 2]
    assert execute(os.path.relpath(folder / "config.py")).model.numbers == [1, 2]
    assert executed() == 1


@pytest.mark.parametrize("changed, numbers", [("config.py", [1, 3]), ("common/base.py", [4, 2])])
def test_again_where_it_or_what_it_imports_has_changed(folder, executed, changed, numbers):
    execute(folder / "config.py")
    text = (folder / changed).read_text()
    (folder / changed).write_text(text.replace("append(2)", "append(3)").replace("[1]", "[4]"))
    os.utime(folder / changed, ns=(1, 1))  # whatever the clock's grain
    assert execute(folder / "config.py").model.numbers == numbers
    assert executed() == 2


def test_one_that_fails_is_executed_again(folder, executed):
    (folder / "config.py").write_text("model = dict(n=1 / 0)\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="config.py, line 1: ZeroDivisionError"):
            execute(folder / "config.py")


def test_a_config_in_yaml_of_a_training(tmp_path):
    """As a training leaves its own; no Python file is beside it."""
    (tmp_path / "config.yaml").write_text("model: {a: 1}\n")
    assert execute(tmp_path / "config.yaml").model.a == 1
    (tmp_path / "config.yaml").write_text("model: {a: 2}\n")
    os.utime(tmp_path / "config.yaml", ns=(1, 1))  # whatever the clock's grain
    assert execute(tmp_path / "config.yaml").model.a == 2


def test_a_yaml_config_is_for_the_other_script():
    with pytest.raises(ConfigError, match=r"defines no model; .*; other configs in YAML are for train_net.py"):
        read_lazy_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"))
