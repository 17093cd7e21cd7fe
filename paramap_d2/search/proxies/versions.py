"""What a proxy is trained with, and on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import paramap_d2


def versions() -> dict[str, str]:
    """Of the packages on which an AP hangs, by name."""
    import detectron2
    import torch

    return {
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "paramap_d2": paramap_d2.__version__,
    }


def machine() -> str:
    """The processor's name, and the GPU's that this process has used."""
    import torch

    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        named = None
    parts = [named[1] if named else platform.processor() or platform.machine()]
    if torch.cuda.is_initialized():  # else to ask would take some of its memory
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
