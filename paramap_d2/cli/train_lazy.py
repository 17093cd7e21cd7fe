"""``paramap train-lazy``: projects/ParamAP/lazyconfig_train_net.py, from wherever this package is installed."""

from __future__ import annotations

from collections.abc import Sequence

from .parser import CommandParser
from .train import run_script, training_parser

DESCRIPTION = """
Train or evaluate a detector that a LazyConfig describes. The options are those of Detectron2's
tools/lazyconfig_train_net.py.
"""

EXAMPLES = """
  train with the loss that a search found:
    paramap train-lazy --config-file CONFIG.py model.param_ap.loss=output/search/best.json train.output_dir=output/final
  on 8 GPUs, or on with a training that was interrupted:
    paramap train-lazy --config-file CONFIG.py --num-gpus 8
    paramap train-lazy --config-file CONFIG.py --resume train.output_dir=output/final
  evaluate:
    paramap train-lazy --config-file CONFIG.py --eval-only train.init_checkpoint=output/final/model_final.pth
"""


def build_parser() -> CommandParser:
    return training_parser("train-lazy", DESCRIPTION, EXAMPLES, "config options, key=value")


def main(arguments: Sequence[str]) -> int:
    build_parser().parse_args(arguments)
    return run_script("lazyconfig_train_net.py", arguments)
