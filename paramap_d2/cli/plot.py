"""``paramap plot``: draw the functions of losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paramap_d2.errors import UserError

from .parser import CommandParser

DESCRIPTION = "Draw the five functions of each head with their control points, and the identity dashed."

EXAMPLES = """
  # the published losses, as in the paper's Figure 1
  paramap plot retinanet-coco fasterrcnn-coco --output functions.png

  # what a search found beside a handcrafted substitution
  paramap plot output/search/best.json square --output compared.pdf
"""


def build_parser() -> CommandParser:
    parser = CommandParser("plot", DESCRIPTION, EXAMPLES)
    parser.add_argument("losses", nargs="+", metavar="NAME_OR_PATH", help="a preset's name or a loss file")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("functions.png"),
        metavar="FILE",
        help="the picture; its suffix says in which format: .png, .pdf, .svg … (default functions.png)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    from paramap_d2.losses import load_loss
    from paramap_d2.search.report.functions import draw_functions, merge_equal

    rows = {}
    for name in options.losses:
        for heads, loss in merge_equal(load_loss(name)).items():
            rows[f"{name}: {heads}"] = loss
    try:
        draw_functions(rows, options.output)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror or error}") from error
    print(options.output)
    return 0
