"""The project's own files, wherever the package is: training scripts and configs."""

from __future__ import annotations

import difflib
from pathlib import Path

from paramap_d2.errors import UserError


def project_folder() -> Path:
    """The folder of train_net.py, lazyconfig_train_net.py and configs/: a part of the installed package, and in a
    checkout projects/ParamAP."""
    package = Path(__file__).resolve().parent
    installed = package / "project"
    return installed if installed.is_dir() else package.parent / "projects" / "ParamAP"


def list_config_files() -> list[str]:
    """The names that :func:`get_config_file` knows, the parts of LazyConfigs apart; base_ and small_ are bases."""
    folder = project_folder() / "configs"
    return sorted(path.relative_to(folder).as_posix() for path in (*folder.glob("*.yaml"), *folder.glob("lazy/*.py")))


def get_config_file(name: str) -> str:
    """The path of a shipped config, as Detectron2's ``model_zoo.get_config_file`` gives that of one of its own.

    Args:
        name: relative to configs/, such as ``bccd_retinanet_R_18_FPN.yaml`` or ``lazy/bccd_retinanet_R_18_FPN.py``.

    Raises:
        UserError: there is none of that name; says which names come near.
    """
    path = project_folder() / "configs" / name
    if name and path.is_file():
        return str(path)
    names = list_config_files()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    raise UserError(f"there is no config {name!r}; {'near it' if near else 'there'} are {', '.join(near or names)}")
