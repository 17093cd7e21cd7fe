#!/usr/bin/env python3
"""``paramap get-detectron2``, which runs before anything is installed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from paramap_d2.cli import run

    sys.exit(run("get-detectron2"))
