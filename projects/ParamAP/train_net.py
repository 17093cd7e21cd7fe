#!/usr/bin/env python
"""Train or evaluate a detector with the Parameterized AP Loss.

    python projects/ParamAP/train_net.py --config-file projects/ParamAP/configs/bccd_retinanet_R_18_FPN.yaml \\
        MODEL.PARAM_AP.LOSS output/bccd/best.json OUTPUT_DIR output/bccd_final
    python projects/ParamAP/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS model_final.pth

The options are those of Detectron2's own tools/train_net.py. The baseline of a config is the same config with
MODEL.META_ARCHITECTURE RetinaNet.
"""

import sys
import warnings

with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's, of Detectron2's own code
    from detectron2.engine import default_argument_parser, default_setup, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

from paramap_d2.config import check_config, check_gpus, read_config
from paramap_d2.engine import Trainer, resumed
from paramap_d2.engine.calibration import warn_if_uncalibrated
from paramap_d2.errors import exit_status


def setup(args):
    cfg = read_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model, checkpoint = Trainer.build_trained(cfg, args.resume)
        warn_if_uncalibrated(model, checkpoint)
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_with_TTA(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(resumed(cfg) if args.resume else cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def command():
    parser = default_argument_parser(__doc__)
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is needed")
    check_gpus(args.num_gpus, args.eval_only)
    processes = args.num_gpus * args.num_machines
    cfg = read_config(args.config_file, args.opts)
    check_config(cfg, args.eval_only, args.resume, processes=processes)
    if args.resume and not args.eval_only:
        Trainer.check_resume(cfg)
    if args.eval_only and processes > 1:  # whose errors are tracebacks
        Trainer.check_trained(cfg, args.resume)
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
