"""``paramap calibrate``: make a detector's scores ones that can be thresholded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramap_d2.errors import UserError
from paramap_d2.files import make_output_folder

from .parser import CommandParser

if TYPE_CHECKING:
    from torch import nn

    from paramap_d2.config.yaml import AddKeys

DESCRIPTION = """
Fit p = sigmoid(a * s + b) to a detector's detections of a data set, s their logits and p the probability that they are
true (matched to an object at IoU 0.5), and fold a and b into the layer that makes s. The result is a checkpoint of the
same detector, with the same order of detections, and so the same AP but for scores that single precision cannot tell
apart, whose scores mean something: at 0.5 a detection is as likely true as false. Beside OUT.pth are left OUT.json, all
figures before and after, and OUT.png, reliability diagrams.
"""

EXAMPLES = """
  paramap calibrate --config-file CONFIG.yaml --weights output/final/model_final.pth --dataset bccd_val \\
      --output output/final/model_calibrated.pth
  paramap calibrate --config-file CONFIG.py --weights output/final/model_final.pth --dataset my_val \\
      --output output/final/per_class.pth --per-class

Figures on the data set that was fitted to are in-sample: judge by another, such as
  paramap train --config-file CONFIG.yaml --eval-only MODEL.WEIGHTS output/final/model_calibrated.pth \\
      DATASETS.TEST "('bccd_test',)" TEST.SCORE_FIGURES True
"""


def build_parser() -> CommandParser:
    parser = CommandParser("calibrate", DESCRIPTION, EXAMPLES)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the detector's, .yaml or .py")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the detector's checkpoint")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="to fit to: not what the detector trained on")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT.pth", help="the calibrated checkpoint")
    parser.add_argument(
        "--per-class", action="store_true", help="an a and b for each class (default: one of each for all)"
    )
    parser.add_import_option("first, for the data sets or models")
    parser.add_config_options("config options; of a LazyConfig key=value")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.output.suffix != ".pth":
        raise UserError(f"--output must end in .pth, and is {options.output}")
    from detectron2.utils.logger import setup_logger

    from paramap_d2.config.stock_keys import check_weights
    from paramap_d2.engine.calibration import calibrate, save, summary
    from paramap_d2.engine.checkpoint import TrainedCheckpointer
    from paramap_d2.search.proxies.user_code import UserCode

    check_weights("--weights", options.weights)
    local = "://" not in options.weights
    if local and options.output.exists() and options.output.samefile(options.weights.partition("?")[0]):
        raise UserError(f"--output {options.output} is the checkpoint to calibrate, which a training resumes from")
    make_output_folder(options.output.parent)
    setup_logger()
    code = UserCode.named(options.imports)
    build = _of_lazy_config if options.config_file.endswith(".py") else _of_yaml
    model, loader = build(options.config_file, options.opts, options.dataset, options.weights, code.add_keys())
    TrainedCheckpointer(model).load(options.weights)
    calibrated = calibrate(model, loader, options.dataset, options.per_class)
    files = options.output, options.output.with_suffix(".json"), options.output.with_suffix(".png")
    try:
        save(model, calibrated, *files)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror or error}") from error
    print(summary(calibrated.report))
    print(*files, sep="\n")
    return 0


def _of_yaml(
    config_file: str, opts: Sequence[str], dataset_name: str, weights: str, add_keys: Sequence[AddKeys]
) -> tuple[nn.Module, Any]:
    """The config's detector, and its loader of the data set."""
    from paramap_d2.config import check_data, num_classes, read_config, warn_if_trained_on
    from paramap_d2.config.stock_keys import check_stock_keys
    from paramap_d2.engine import Trainer

    cfg = read_config(config_file, opts, add_keys)
    cfg.MODEL.WEIGHTS = weights
    check_stock_keys(cfg, eval_only=True)
    check_data([], [dataset_name], num_classes(cfg), cfg.INPUT.CHECK_IMAGES)
    warn_if_trained_on(dataset_name, cfg.DATASETS.TRAIN)
    return Trainer.build_model(cfg), Trainer.build_calibration_loader(cfg, dataset_name)


def _of_lazy_config(
    config_file: str, opts: Sequence[str], dataset_name: str, weights: str, add_keys: Sequence[AddKeys]
) -> tuple[nn.Module, Any]:
    from paramap_d2.config import check_data, warn_if_trained_on
    from paramap_d2.config.lazy import dataset_names, num_classes, read_lazy_config
    from paramap_d2.config.stock_keys import check_lazy_stock_keys
    from paramap_d2.engine.lazy import build_calibration_loader, build_model

    cfg = read_lazy_config(config_file, opts)
    cfg.train.init_checkpoint = weights
    check_lazy_stock_keys(cfg, eval_only=True)
    check_data([], [dataset_name], num_classes(cfg), cfg.train.check_images)
    warn_if_trained_on(dataset_name, dataset_names(cfg, ["train"]))
    return build_model(cfg), build_calibration_loader(cfg, dataset_name)
