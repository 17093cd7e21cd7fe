import os
import pickle
import subprocess
import sys

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.proxies.user_code import UserCode

TRAINER = """
from detectron2.engine import DefaultTrainer

def add_mine_config(cfg):
    cfg.MINE = 1

class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, name):
        return None

class Blind(DefaultTrainer):
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a name of its own into the folder that the process stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(text):
        name = f"own_code_{os.path.basename(tmp_path)}_{len(written)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_imports_from_the_folder_it_stands_in_once(module):
    name = module("count = []")
    code = UserCode.named([name])
    code.load()[0].count.append(1)
    assert code.load()[0].count == [1]


def test_another_process_in_another_folder_imports_the_same(module, tmp_path):
    code = UserCode.named([module("where = __file__")])
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(code))
    program = f"import pickle; print(pickle.load(open({str(tmp_path / 'code.pkl')!r}, 'rb')).load()[0].where)"
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / f"{code.modules[0]}.py")


def test_without_modules_the_path_stays(module):
    before = list(sys.path)
    assert UserCode.named([]).load() == [] and sys.path == before


def test_keys_of_another_project(module):
    from types import SimpleNamespace

    (add,) = UserCode.named([module(TRAINER)]).add_keys()
    cfg = SimpleNamespace()
    add(cfg)
    assert cfg.MINE == 1


def test_a_trainer_by_name(module):
    name = module(TRAINER)
    assert UserCode.named([]).trainer(f"{name}:Trainer").__name__ == "Trainer"


@pytest.mark.parametrize(
    "spec, words",
    [
        ("{name}", "must be of the form module:Class"),
        ("{name}:", "must be of the form module:Class"),
        ("{name}:Nothing", "no subclass of Detectron2's DefaultTrainer of that name"),
        ("{name}:add_mine_config", "no subclass of Detectron2's DefaultTrainer"),
        ("{name}:Blind", "defines no build_evaluator, and a fitness needs one"),
        ("nowhere_at_all:Trainer", "there is no module nowhere_at_all"),
    ],
)
def test_what_is_no_trainer(module, spec, words):
    spec = spec.format(name=module(TRAINER))
    with pytest.raises(UserError, match=words) as raised:
        UserCode.named([]).trainer(spec)
    assert str(raised.value).startswith(f"PROXY.TRAINER {spec}") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "there is no module nowhere_at_all in this folder or on Python's path"),
        ("import another_missing_one", "No module named 'another_missing_one'"),
        ("x = 1\ny = x / 0", "ZeroDivisionError: division by zero .*line 2"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_modules_that_cannot_be_imported(module, text, words):
    name = "nowhere_at_all" if text is None else module(text)
    with pytest.raises(UserError, match=words) as raised:
        UserCode.named([name]).load()
    assert str(raised.value).startswith(f"--import {name}: ") and "\n" not in str(raised.value)
