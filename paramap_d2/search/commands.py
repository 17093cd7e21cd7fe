"""Commands that go on from a search, as they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def training_command(settings: Mapping[str, Any], loss: Path, output: Path) -> str:
    """The command that trains a search's config with a loss file."""
    config = str(settings.get("config_file") or "CONFIG")
    opts = map(str, settings.get("opts") or [])
    if config.endswith(".py"):
        command = "train-lazy"
        ours = [*(f"{key}={loss}" for key in settings["loss_keys"]), f"train.output_dir={output}"]
    else:
        command = "train"
        ours = ["MODEL.PARAM_AP.LOSS", str(loss), "OUTPUT_DIR", str(output)]
    return shlex.join(["paramap", command, "--config-file", config, *opts, *ours])
