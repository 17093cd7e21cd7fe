"""``paramap train``: projects/ParamAP/train_net.py, from wherever this package is installed."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from paramap_d2.model_zoo import project_folder

from .parser import CommandParser, at_least

DESCRIPTION = """
Train or evaluate a detector that a YAML config describes, with the Parameterized AP Loss or any other. The options are
those of Detectron2's tools/train_net.py. The baseline of a RetinaNet's config is the same config with
MODEL.META_ARCHITECTURE RetinaNet; those of others are in projects/ParamAP/README.md.
"""

EXAMPLES = """
  train with the loss that a search found:
    paramap train --config-file CONFIG MODEL.PARAM_AP.LOSS output/search/best.json OUTPUT_DIR output/final
  on 8 GPUs, or on with a training that was interrupted:
    paramap train --config-file CONFIG --num-gpus 8
    paramap train --config-file CONFIG --resume OUTPUT_DIR output/final
  evaluate:
    paramap train --config-file CONFIG --eval-only MODEL.WEIGHTS output/final/model_final.pth
"""


def build_parser() -> CommandParser:
    return training_parser("train", DESCRIPTION, EXAMPLES, "config options")


def main(arguments: Sequence[str]) -> int:
    build_parser().parse_args(arguments)
    return run_script("train_net.py", arguments)


def training_parser(command: str, description: str, examples: str, opts: str) -> CommandParser:
    """The options of Detectron2's default_argument_parser, which cannot be asked without importing torch."""
    parser = CommandParser(command, description, examples)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=at_least(0), default=1, metavar="N", help="on each machine (default 1)")
    parser.add_argument("--num-machines", type=at_least(1), default=1, metavar="N", help="(default 1)")
    parser.add_argument("--machine-rank", type=at_least(0), default=0, metavar="N", help="of this one (default 0)")
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14  # one a user, as Detectron2's
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        metavar="URL",
        help="where the processes meet (default %(default)s)",
    )
    parser.add_config_options(opts)
    return parser


def run_script(name: str, arguments: Sequence[str]) -> int:
    """Run one of the project's scripts as Python itself would, so that the processes of several GPUs find it, too."""
    script = str(project_folder() / name)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    return 0
