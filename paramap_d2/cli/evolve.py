"""``paramap evolve``: search the control points of the Parameterized AP Loss."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError
from paramap_d2.search.algorithms import ALGORITHMS
from paramap_d2.search.stopping import RULES

from .parser import CommandParser, at_least, positive

DESCRIPTION = """
Search the control points of the Parameterized AP Loss for a detector and its data.

Every candidate loss is tried in a short training of the config, and the AP it reaches is its fitness. What is
shortened, a YAML config says with PROXY.OPTS and a LazyConfig with proxy.opts. OUT then holds best.json (a loss file to
train with), functions.png, history.png, report.html, search.db with every evaluation, TensorBoard events and the log.
"""

EXAMPLES = """
  evolve a loss with two workers:
    paramap evolve --config-file CONFIG --population 6 --generations 3 --workers 2 --seed 0 --output-dir OUT
  go on after an interruption, or add generations:
    paramap evolve --resume --output-dir OUT
    paramap evolve --resume --output-dir OUT --generations 6
  shorter proxies, and AP50 as fitness:
    paramap evolve --config-file CONFIG --metric AP50 --output-dir OUT SOLVER.MAX_ITER 50
  a LazyConfig of a Faster R-CNN: one head, with the published loss for the other:
    paramap evolve --config-file CONFIG.py --heads roi --fixed fasterrcnn-coco --output-dir OUT train.max_iter=50
  data sets, models and a DefaultTrainer of one's own (docs/own_project.md):
    paramap evolve --config-file CONFIG --import my_project --output-dir OUT PROXY.TRAINER my_project:Trainer
  a search to be left alone: hopeless proxies end early, survivors are trained from up to 3 seeds, the best three for
  300 iterations, on a Ray cluster:
    paramap evolve --config-file CONFIG --population 16 --generations 20 --workers 16 --stop median --reevaluate 3 \\
        --final-iters 300 --timeout 3600 --executor ray --ray-address auto --gpus-per-proxy 1 --output-dir OUT
"""


def build_parser() -> CommandParser:
    p = CommandParser("evolve", DESCRIPTION, EXAMPLES)
    p.add_argument(
        "--config-file", metavar="FILE", help="a YAML config or LazyConfig (.py) with this loss; of a search to begin"
    )
    p.add_import_option("in the search and in every worker, for the data sets, models or PROXY.TRAINER")
    p.add_argument("--output-dir", required=True, metavar="OUT", help="folder of the search")
    p.add_argument("--population", type=at_least(1), default=8, help="individuals of a generation (default 8)")
    p.add_argument("--generations", type=at_least(1), help="generations in all (default 4, or as --evaluations allows)")
    p.add_argument(
        "--evaluations",
        type=at_least(1),
        metavar="N",
        help="end after N proxies, repeats included: the same budget for every algorithm (default: no limit)",
    )
    p.add_argument("--seed", type=at_least(0), default=0, help="of the search and of its proxies (default 0)")
    p.add_argument("--workers", type=at_least(1), default=1, help="proxies at a time (default 1)")
    p.add_argument(
        "--resume", action="store_true", help="go on with the search in OUT; what is not given is as it was there"
    )
    p.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on though the config or the data have changed, or the search is of an older version; it is recorded",
    )
    p.add_argument(
        "--executor",
        choices=["process", "ray", "inline"],
        default="process",
        help="process: worker processes on this machine, each with its share of threads and GPUs; ray: workers on a "
        "Ray cluster; inline: in this process, one after the other (default process)",
    )
    p.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="of torch, that each proxy has (default: its share of the processors; with ray its CPUs)",
    )
    p.add_argument("--hours", type=positive, metavar="H", help="end after H hours, with what is known by then")
    p.add_argument(
        "--env",
        action="append",
        metavar="NAME",
        help="with ray: an environment variable that workers take over; may be given several times",
    )
    p.add_argument(
        "--ray-address", metavar="ADDR", help="an existing Ray cluster, or auto (default: a local one for this run)"
    )
    p.add_argument("--cpus-per-proxy", type=positive, metavar="N", help="with ray (default: a fair share)")
    p.add_argument(
        "--gpus-per-proxy",
        type=float,
        metavar="N",
        help="with ray: 1, a fraction to share one, or several that train a proxy together (default 0)",
    )
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
    p.add_argument(
        "--points", type=at_least(1), default=4, metavar="K", help="control points of a function (default 4)"
    )
    p.add_argument("--elite", type=at_least(0), default=1, help="best individuals that live on unchanged (default 1)")
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
    p.add_argument("--fix-grad-scale", type=positive, metavar="R", help="do not search the gradient scale")
    p.add_argument("--metric", default="AP", help="the fitness: a figure of COCO's evaluator (default AP)")
    p.add_argument(
        "--reevaluate",
        type=at_least(1),
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
        "--final-iters", type=at_least(1), metavar="N", help="train the finalists for N iterations, and let that decide"
    )
    p.add_argument("--finalists", type=at_least(1), default=3, metavar="N", help="how many they are (default 3)")
    p.add_argument(
        "--retries",
        type=at_least(0),
        default=2,
        metavar="N",
        help="try a proxy that the machine failed again, up to N times (default 2)",
    )
    p.add_argument(
        "--confirm",
        type=at_least(0),
        default=3,
        metavar="N",
        help="at the end train what was found and what the search began with from N fresh seeds each, and hand over "
        "the better; before, without --final-iters, the algorithm's centre and the best seen meet in two trainings "
        "each (default 3; 0 for the highest seen, unconfirmed)",
    )
    p.add_argument(
        "--checkpoint-proxies",
        type=at_least(1),
        metavar="N",
        help="keep a proxy's state every N iterations, for the next try to go on from (default: not)",
    )
    p.add_argument(
        "--keep-finalists",
        action="store_true",
        help="keep the weights of final, run-off and confirming trainings, with their loss files, in OUT/finalists",
    )
    p.add_argument("--timeout", type=positive, metavar="S", help="seconds a proxy may take (default: no limit)")
    p.add_config_options("config options of the proxies; of a LazyConfig key=value")
    return p


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options that are typed, and no others."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(arguments))
    if not given.get("opts"):
        given.pop("opts", None)
    if "config_file" not in given and "resume" not in given:
        parser.error("the following arguments are required: --config-file (or --resume)")
    return given


def main(arguments: Sequence[str]) -> int:
    given = _given(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's way to say Ctrl-C
    from paramap_d2.search.options import SearchOptions, resumed_options

    options = resumed_options(given) if given.get("resume") else SearchOptions(**given)
    from paramap_d2.search.session import run_search  # after the environment says where the data lies

    kept = "what has ended is kept, go on with --resume"
    try:
        run_search(options)
    except OSError as error:  # a full disk, a folder that went away: what was committed before stays
        raise UserError(f"{error}; {kept}") from error
    except KeyboardInterrupt:
        begun = (Path(options.output_dir) / "search.db").exists()
        raise KeyboardInterrupt(f"{kept} ({options.output_dir})" if begun else "nothing had begun") from None
    return 0
