#!/usr/bin/env python
"""Train or evaluate a detector that a LazyConfig describes.

    python projects/ParamAP/lazyconfig_train_net.py \\
        --config-file projects/ParamAP/configs/lazy/bccd_retinanet_R_18_FPN.py \\
        model.param_ap.loss=output/bccd/best.json train.output_dir=output/bccd_final
    python projects/ParamAP/lazyconfig_train_net.py --config-file CONFIG --eval-only \\
        train.init_checkpoint=model_final.pth

The options are those of Detectron2's own tools/lazyconfig_train_net.py.
"""

import sys
import warnings

with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's, of Detectron2's own code
    from detectron2.engine import create_ddp_model, default_argument_parser, default_setup, launch

from paramap_d2.config import check_gpus
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.config.lazy_checks import check_lazy_config
from paramap_d2.engine.calibration import warn_if_uncalibrated
from paramap_d2.engine.lazy import build_model, check_resume, check_trained, evaluate, load_trained, train
from paramap_d2.errors import exit_status


def main(args):
    cfg = read_lazy_config(args.config_file, args.opts)
    default_setup(cfg, args)
    if not args.eval_only:
        return train(cfg, args.resume)
    model = create_ddp_model(build_model(cfg, args.resume))
    warn_if_uncalibrated(model, load_trained(cfg, model, args.resume))
    return evaluate(cfg, model)


def command():
    parser = default_argument_parser(__doc__)
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is needed")
    check_gpus(args.num_gpus)
    processes = args.num_gpus * args.num_machines
    cfg = read_lazy_config(args.config_file, args.opts)
    check_lazy_config(cfg, args.eval_only, args.resume, processes=processes)
    if args.resume and not args.eval_only:
        check_resume(cfg)
    if args.eval_only and processes > 1:  # whose errors are tracebacks
        check_trained(cfg, args.resume)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    sys.exit(exit_status(command))
