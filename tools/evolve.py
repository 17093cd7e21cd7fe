#!/usr/bin/env python
"""Search the control points of the Parameterized AP Loss for a detector and its data.

Every candidate loss is tried in a short training of the config, and the AP it reaches is its fitness. What is
shortened, a YAML config says with PROXY.OPTS and a LazyConfig with proxy.opts. OUT then holds best.json (a loss file to
train with), functions.png, history.png, report.html, search.db with every evaluation, TensorBoard events and the log.
"""

import argparse
import signal
import sys
import warnings

from paramap_d2.search.algorithms import ALGORITHMS
from paramap_d2.search.stopping import RULES

EXAMPLES = """examples:
  evolve a loss on BCCD with two workers:
    python tools/evolve.py --config-file projects/ParamAP/configs/bccd_retinanet_R_18_FPN.yaml --population 6 \\
        --generations 3 --workers 2 --seed 0 --output-dir output/bccd
  go on after an interruption, or add generations:
    python tools/evolve.py ... --generations 6 --output-dir output/bccd --resume
  shorter proxies, and AP50 as fitness:
    python tools/evolve.py ... --metric AP50 --output-dir output/quick SOLVER.MAX_ITER 50
  a LazyConfig, and one head of Faster R-CNN with the published loss for the other:
    python tools/evolve.py --config-file projects/ParamAP/configs/lazy/bccd_faster_rcnn_R_18_FPN.py \\
        --heads roi --fixed fasterrcnn-coco --output-dir output/roi train.max_iter=50
  a search to be left alone: hopeless proxies end early, survivors are trained from up to 3 seeds, the best three for
  300 iterations, on a Ray cluster:
    python tools/evolve.py ... --population 16 --generations 20 --workers 16 --stop median --reevaluate 3 \\
        --final-iters 300 --timeout 3600 --executor ray --ray-address auto --gpus-per-proxy 1
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--config-file", required=True, metavar="FILE", help="a YAML config or LazyConfig (.py) with this loss"
    )
    p.add_argument("--output-dir", required=True, metavar="OUT", help="folder of the search")
    p.add_argument("--population", type=int, default=8, help="individuals of a generation (default 8)")
    p.add_argument("--generations", type=int, help="generations in all (default 4, or as --evaluations allows)")
    p.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="end after N proxies, repeats included: the same budget for every algorithm (default: no limit)",
    )
    p.add_argument("--seed", type=int, default=0, help="of the search and of its proxies (default 0)")
    p.add_argument("--workers", type=int, default=1, help="proxies at a time (default 1)")
    p.add_argument("--resume", action="store_true", help="go on with the search in OUT")
    p.add_argument(
        "--executor",
        choices=["process", "ray", "inline"],
        default="process",
        help="process: worker processes on this machine, each with its share of threads and GPUs; ray: workers on a "
        "Ray cluster; inline: in this process, one after the other (default process)",
    )
    p.add_argument(
        "--ray-address", metavar="ADDR", help="an existing Ray cluster, or auto (default: a local one for this run)"
    )
    p.add_argument("--cpus-per-proxy", type=float, metavar="N", help="with ray (default: a fair share)")
    p.add_argument("--gpus-per-proxy", type=float, metavar="N", help="with ray, may be a fraction (default 0)")
    p.add_argument(
        "--algorithm",
        choices=list(ALGORITHMS),
        default="ga",
        help="; ".join(f"{name}: {what}" for name, what in ALGORITHMS.items()) + " (default ga)",
    )
    p.add_argument(
        "--mode",
        choices=["separate", "shared"],
        default="separate",
        help="separate: five functions a head; shared: one for all five (default separate)",
    )
    p.add_argument("--points", type=int, default=4, metavar="K", help="control points of a function (default 4)")
    p.add_argument("--elite", type=int, default=1, help="best individuals that live on unchanged (default 1)")
    p.add_argument(
        "--init",
        action="append",
        metavar="LOSS",
        help="first individuals: a preset or a loss file; may be given several times (default: the config's "
        "MODEL.PARAM_AP.LOSS and linear, the identity)",
    )
    p.add_argument(
        "--heads",
        type=lambda text: text.split(","),
        metavar="HEAD[,HEAD]",
        help="search these of the detector's heads, such as rpn or roi (default: all)",
    )
    p.add_argument(
        "--fixed", metavar="LOSS", help="the loss of the heads that are not searched: a preset or a loss file"
    )
    p.add_argument("--fix-grad-scale", type=float, metavar="R", help="do not search the gradient scale")
    p.add_argument("--metric", default="AP", help="the fitness: a figure of COCO's evaluator (default AP)")
    p.add_argument(
        "--reevaluate",
        type=int,
        default=1,
        metavar="N",
        help="train survivors from up to N seeds, and go by the means (default 1: no repeats)",
    )
    p.add_argument(
        "--stop",
        choices=list(RULES),
        default="none",
        help="; ".join(f"{name}: {what}" for name, what in RULES.items()) + " (default none)",
    )
    p.add_argument(
        "--final-iters", type=int, metavar="N", help="train the finalists for N iterations, and let that decide"
    )
    p.add_argument("--finalists", type=int, default=3, metavar="N", help="how many they are (default 3)")
    p.add_argument("--timeout", type=float, metavar="S", help="seconds a proxy may take (default: no limit)")
    p.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config options of the proxies; of a LazyConfig key=value",
    )
    return p


def main() -> int:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's way to say Ctrl-C
    # Raised on import of Detectron2 by its own code.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning)
    from paramap_d2.errors import UserError
    from paramap_d2.search.session import SearchOptions, run_search

    try:
        run_search(SearchOptions(**vars(args)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that went away: what was committed before stays
        print(f"error: {error}; what has ended is kept, go on with --resume", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what has ended is kept, go on with --resume ({args.output_dir})", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
