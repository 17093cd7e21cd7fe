"""YAML configs, read with errors that a user can act on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from .checks import ConfigError
from .keys import add_paramap_config

AddKeys = Callable[[CfgNode], None]
"""Adds a project's keys to a config, as its ``add_…_config`` does."""


def read_config(
    config_file: str | os.PathLike[str], opts: Sequence[object] = (), add_keys: Sequence[AddKeys] = ()
) -> CfgNode:
    """A Detectron2 config with the project's keys, from a YAML file and KEY VALUE pairs.

    Args:
        add_keys: of other projects whose keys the config has, too.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value of a wrong type, a key without a value.
    """
    path = os.fspath(config_file)
    if not os.path.isfile(path):
        raise ConfigError(f"config file {path} does not exist")
    cfg = _empty(add_keys)
    if not torch.cuda.is_available():  # Detectron2's own default is "cuda", whatever the machine has
        cfg.MODEL.DEVICE = "cpu"
    try:
        cfg.merge_from_file(path)
    except Exception as error:  # yacs, yaml and fvcore raise all sorts
        raise ConfigError(f"config file {path}: {_line(error)}") from None
    merge_options(cfg, opts)
    return cfg


def merge_options(cfg: CfgNode, opts: Sequence[object]) -> None:
    """Merge KEY VALUE pairs into the config.

    Raises:
        ConfigError: names the key.
    """
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"config options come in pairs KEY VALUE; {opts[-1]!r} at the end has no partner")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except Exception as error:
            raise ConfigError(f"config option {key} {value}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def parse_config(text: str, add_keys: Sequence[AddKeys] = ()) -> CfgNode:
    """A config with the project's keys from its own dump."""
    cfg = _empty(add_keys)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    return cfg


def _empty(add_keys: Sequence[AddKeys]) -> CfgNode:
    cfg = get_cfg()
    for add in (add_paramap_config, *add_keys):
        add(cfg)
    return cfg
