"""Commands that go on from a search, as they are typed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OF_PROXIES = (
    "PROXY.",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_",
    "proxy.",
    "train.max_iter",
    "lr_multiplier.",
)
"""Beginnings of the keys by which a search is told how short its trainings are: no whole training's."""

SCRIPT = "YOUR_TRAINING_SCRIPT.py"


def training_command(settings: Mapping[str, Any], loss: Path, output: Path) -> str:
    """The command that trains a search's config with a loss file, as long as the config says; by the user's own script
    where the search needed modules or a trainer of the user's, which the project's do not know."""
    own = settings.get("options") or {}  # with absolute paths, where the store is not of an older version
    config = str(own.get("config_file") or settings.get("config_file") or "CONFIG")
    opts = [str(option) for option in own.get("opts") or settings.get("opts") or []]
    lazy = config.endswith(".py")
    if lazy:
        ours = [*(f"{key}={loss}" for key in settings["loss_keys"]), f"train.output_dir={output}"]
    else:
        ours = ["MODEL.PARAM_AP.LOSS", str(loss), "OUTPUT_DIR", str(output)]
    by_own = settings.get("imports") or (settings.get("config") or {}).get("PROXY.TRAINER")
    script = ["python", SCRIPT] if by_own else ["paramap", "train-lazy" if lazy else "train"]
    return shlex.join([*script, "--config-file", _from_here(config), *_of_whole_trainings(opts, lazy), *ours])


def _from_here(path: str) -> str:
    """A path as it is typed in the folder that one is in, where it lies below that."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below


def _of_whole_trainings(opts: Sequence[str], lazy: bool) -> Iterator[str]:
    options = [[option] for option in opts] if lazy else [opts[k : k + 2] for k in range(0, len(opts), 2)]
    for option in options:
        if not option[0].lstrip("+").startswith(OF_PROXIES):
            yield from option
