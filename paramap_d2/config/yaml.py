"""YAML configs, read with errors that a user can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from .keys import add_paramap_config
from .stock_keys import ConfigError, did_you_mean

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
    if path.endswith(".py"):
        raise ConfigError(
            f"config file {path} is a LazyConfig, which lazyconfig_train_net.py (paramap train-lazy) trains"
        )
    cfg = _empty(add_keys)
    if not torch.cuda.is_available():  # Detectron2's own default is "cuda", whatever the machine has
        cfg.MODEL.DEVICE = "cpu"
    try:
        cfg.merge_from_file(path)
    except Exception as error:  # yacs, yaml and fvcore raise all sorts
        raise ConfigError(f"config file {path}: {_line(error, cfg)}") from None
    merge_options(cfg, opts)
    return cfg


def merge_options(cfg: CfgNode, opts: Sequence[object], where: str = "config option") -> None:
    """Merge KEY VALUE pairs into the config; ``where`` says in a message whose they are.

    Raises:
        ConfigError: names the key.
    """
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"{where}s come in pairs KEY VALUE; {opts[-1]!r} at the end has no partner")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except Exception as error:
            raise ConfigError(f"{where} {key} {value}: {_line(error, cfg)}") from None


def _line(error: Exception, cfg: CfgNode) -> str:
    """What yacs says, in one line, and how to mend it where that is known."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # else it is quoted
    line = " ".join(text.split()) or type(error).__name__
    if line == "argument of type 'NoneType' is not iterable":
        return "it is empty"
    if unknown := re.search(r"Non-existent (?:config )?key: ([\w.]+)$", line):
        hint = did_you_mean(unknown[1], _keys(cfg))
        if not hint and "config key" in line:  # of a file
            hint = "; --import names a module that adds keys of your own (paramap evolve, calibrate)"
        return line + hint
    mismatch = r"\(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \(.* vs\. ([^ ]+)\) for config key: ([\w.]+)$"
    if found := re.search(mismatch, line):
        match found.groups():
            case "tuple", "str", names, key if key.startswith("DATASETS."):
                listed = "', '".join(names.split(","))
                return f"{line}; write it \"('{listed}',)\""
            case "tuple", "int" | "float", number, _:
                return f'{line}; write it "({number},)"'
            case "float", "int", number, _:
                return f"{line}; write it {number}.0"
    return line


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


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
