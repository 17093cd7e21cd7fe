#!/usr/bin/env python
"""``paramap split``."""

import sys

from paramap_d2.cli import run

if __name__ == "__main__":
    sys.exit(run("split"))
