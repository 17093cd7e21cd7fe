#!/usr/bin/env python
"""How far the AP of the same loss differs from seed to seed, and what difference between losses a proxy can tell.

Trains the config's proxy with each loss from several seeds. Losses share their seeds, as in a search.
"""

import argparse
import math
import statistics
import tempfile
import warnings

EXAMPLES = """examples:
  DETECTRON2_DATASETS=... python benchmarks/noise.py --seeds 6 --workers 2 \\
      --config-file projects/ParamAP/configs/bccd_retinanet_R_18_FPN.yaml \\
      --loss retinanet-coco --loss output/bccd/best.json
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--config-file", required=True, metavar="FILE", help="a YAML config or LazyConfig with this loss")
    p.add_argument("--loss", action="append", required=True, metavar="LOSS", help="a preset or loss file; several")
    p.add_argument("--seeds", type=int, default=6, help="trainings of each loss (default 6)")
    p.add_argument("--workers", type=int, default=1, help="trainings at a time (default 1)")
    p.add_argument("--metric", default="AP", help="default AP")
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options")
    return p


def main() -> None:
    options = parser().parse_args()
    if options.seeds < 2:
        raise SystemExit("error: --seeds must be 2 or more: how much they differ is what is measured")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning)
    from rich.progress import track

    from paramap_d2.losses import load_loss
    from paramap_d2.search.executors.local import ProcessExecutor
    from paramap_d2.search.proxies.config import read_proxy_config
    from paramap_d2.search.proxies.proxy import Proxy, Task
    from paramap_d2.search.space import SearchSpace

    config = read_proxy_config(options.config_file, options.opts)
    space = SearchSpace(config.heads)
    genomes = [space.encode(load_loss(name), f"loss {name}") for name in options.loss]
    tasks = [Task(0, i, genome, seed) for seed in range(options.seeds) for i, genome in enumerate(genomes)]
    executor = ProcessExecutor(options.workers)
    reached: dict[int, list[float]] = {i: [] for i in range(len(genomes))}
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs = executor.run(Proxy(config, space, options.metric, folder), tasks)
            for place, outcome in track(runs, "training", total=len(tasks)):
                if outcome.status != "finished":
                    print(f"{options.loss[tasks[place].position]}, seed {tasks[place].seed}: {outcome.error}")
                reached[tasks[place].position].append(outcome.fitness)
        finally:
            executor.close()

    print(f"{options.metric} of {options.seeds} seeds: mean, standard deviation, least to most")
    for i, name in enumerate(options.loss):
        values = reached[i]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        print(f"{name:<40} {statistics.fmean(values):6.2f} {spread:6.2f}   {min(values):.2f} to {max(values):.2f}")
    pooled = math.sqrt(statistics.fmean(statistics.variance(values) for values in reached.values()))
    told = [f"{2 * pooled * math.sqrt(2 / n):.1f} from {n}" for n in (1, 2, 4, 8)]
    print(f"two standard errors of a difference, by the seeds of each loss: {', '.join(told)}")


if __name__ == "__main__":
    main()
