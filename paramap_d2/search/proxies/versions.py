"""What a proxy is trained with."""

from __future__ import annotations

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
