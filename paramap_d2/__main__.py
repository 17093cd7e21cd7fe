"""``python -m paramap_d2``: the command ``paramap``."""

import sys

from paramap_d2.cli import main

if __name__ == "__main__":  # a search's workers import this module again
    sys.exit(main())
