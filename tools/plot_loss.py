#!/usr/bin/env python3
"""Draw the functions of losses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
examples:
  # the published losses, as in the paper's Figure 1
  python tools/plot_loss.py retinanet-coco fasterrcnn-coco --output functions.png

  # what a search found beside a handcrafted substitution
  python tools/plot_loss.py output/bccd/best.json square --output compared.pdf
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Draw the five functions of each head with their control points, and the identity dashed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("losses", nargs="+", metavar="NAME_OR_PATH", help="a preset's name or a loss file")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("functions.png"),
        metavar="FILE",
        help="the picture; its suffix says in which format: .png, .pdf, .svg … (default: functions.png)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.errors import UserError  # loads torch: not for --help
    from paramap_d2.losses import LossFileError, load_loss
    from paramap_d2.search.report.figures import draw_functions, merge_equal

    try:
        rows = {}
        for name in options.losses:
            for heads, loss in merge_equal(load_loss(name)).items():
                rows[f"{name}: {heads}"] = loss
        draw_functions(rows, options.output)
    except (UserError, LossFileError) as error:
        print(f"plot_loss.py: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"plot_loss.py: error: cannot write {options.output}: {error.strerror}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
