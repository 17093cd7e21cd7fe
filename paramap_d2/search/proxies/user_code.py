"""A user's own code, imported alike in the search and in every process that trains its proxies."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from paramap_d2.errors import UserError

if TYPE_CHECKING:
    from detectron2.engine import DefaultTrainer

    from paramap_d2.config.yaml import AddKeys


@dataclass(frozen=True)
class UserCode:
    """Modules that register what a config names: data sets, models, a trainer. Plain values, to be sent anywhere.

    Args:
        modules: by name, as ``--import`` has them.
        path: where they are looked for, the search's ``sys.path`` without relative folders: a Ray worker does not get
            it, and a process may stand in another folder.
    """

    modules: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    @classmethod
    def named(cls, modules: Sequence[str]) -> UserCode:
        """Modules that this process can import, those in its folder included, which a console script leaves out."""
        return cls(tuple(modules), tuple(dict.fromkeys(os.path.abspath(p) for p in ("", *sys.path))))

    def load(self) -> list[ModuleType]:
        """Import the modules, once a process.

        Raises:
            UserError: one that there is not, or that cannot be executed.
        """
        if not self.modules:
            return []
        self._look_there()
        return [_imported(name, f"--import {name}") for name in self.modules]

    def add_keys(self) -> list[AddKeys]:
        """The modules' functions ``add_…_config``: by Detectron2's convention they add a project's keys to a config."""
        found = {}
        for module in self.load():
            for name, value in vars(module).items():
                if name.startswith("add_") and name.endswith("_config") and callable(value):
                    found[id(value)] = value
        return list(found.values())

    def trainer(self, spec: str) -> type[DefaultTrainer]:
        """The class that ``module:Class`` names.

        Raises:
            UserError: there is none, it is no DefaultTrainer, or it builds no evaluator.
        """
        from detectron2.engine import DefaultTrainer

        key = f"PROXY.TRAINER {spec}"
        module, _, name = spec.partition(":")
        if not module or not name:
            raise UserError(f"{key}: must be of the form module:Class")
        self._look_there()
        trainer: Any = _imported(module, key)
        for part in name.split("."):
            trainer = getattr(trainer, part, None)
        if not (isinstance(trainer, type) and issubclass(trainer, DefaultTrainer)):
            raise UserError(f"{key}: {module} has no subclass of Detectron2's DefaultTrainer of that name")
        if trainer.build_evaluator.__func__ is DefaultTrainer.build_evaluator.__func__:
            raise UserError(f"{key}: it defines no build_evaluator, and a fitness needs one")
        return trainer

    def _look_there(self) -> None:
        sys.path[:] = [*self.path, *(p for p in sys.path if p not in self.path)]


def _same_file(spec: ModuleSpec | None, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return spec is not None and file is not None and spec.origin == os.path.abspath(file)


def _imported(name: str, asked: str) -> ModuleType:
    main = sys.modules["__main__"]
    try:
        # A script that searches and registers its data, too, is there under another name, and cannot register it twice.
        if name not in sys.modules and _same_file(importlib.util.find_spec(name), main):
            sys.modules[name] = main
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f"; without .py: {name[:-3]}" if name.endswith(".py") else ""
            raise UserError(
                f"{asked}: there is no module {error.name} in this folder or on Python's path{hint}"
            ) from None
        raise UserError(f"{asked}: {error}") from None
    except (Exception, SystemExit) as error:  # a module is a program: anything
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())
        raise UserError(f"{asked}: {type(error).__name__}: {text}{where}") from None
