#!/usr/bin/env python
"""What a search costs beside its proxies, and what a second worker brings.

Without a config the proxy does nothing: what is left is store, executor and algorithm. With one, real proxies are
trained by one worker and then by two, each on one thread: the same evaluations twice. With --before, they are first
trained without a search, by a run of train_net.py for each: one after the other with torch's own threads, and two at a
time on one thread each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # workers import the proxy from here
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])

EXAMPLES = """examples:
  python benchmarks/search.py
  python benchmarks/search.py --executor ray
  python benchmarks/search.py --config-file projects/ParamAP/configs/shapes_retinanet_R_18_FPN.yaml
  DETECTRON2_DATASETS=... python benchmarks/search.py --before --population 4 \\
      --config-file projects/ParamAP/configs/bccd_retinanet_R_18_FPN.yaml
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--executor", choices=["process", "ray"], default="process", help="default process")
    p.add_argument("--workers", type=int, default=2, help="for the proxy that does nothing (default 2)")
    p.add_argument("--evaluations", type=int, default=1000, help="of the proxy that does nothing (default 1000)")
    p.add_argument("--config-file", metavar="FILE", help="real proxies of this config instead")
    p.add_argument("--population", type=int, default=6, help="real proxies, in one generation (default 6)")
    p.add_argument("--before", action="store_true", help="also by train_net.py, without a search (a YAML config)")
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options of the real proxies")
    return p


def nothing(task):
    from paramap_d2.search.proxies.proxy import Outcome

    return Outcome("finished", sum(task.genome), {"bbox/AP": sum(task.genome)}, started=time.time())


def build_executor(name: str, workers: int):
    if name == "ray":
        from paramap_d2.search.executors.ray import RayExecutor

        return RayExecutor(workers)
    from paramap_d2.search.executors.local import ProcessExecutor

    return ProcessExecutor(workers, threads=1)


def search(proxy, space, executor, population: int, **schedule):
    """Run one, with everything that it writes; returns its evaluations and its seconds."""
    from paramap_d2.search.algorithms import build_algorithm
    from paramap_d2.search.evolution import Schedule, evolve, write_results
    from paramap_d2.search.store import Store

    algorithm = build_algorithm("ga", space.genes, population, seed=0, initial=[space.identity()])
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "search.db") as store:
        begin = time.perf_counter()
        found = evolve(algorithm, proxy, executor, store, Schedule(seed=0, **schedule))
        write_results(Path(folder), store, space)
        return found, time.perf_counter() - begin


def bookkeeping(options: argparse.Namespace) -> None:
    import search as module  # by this name the workers find the proxy

    from paramap_d2.search.space import SearchSpace

    space = SearchSpace(("dense",))
    executor = build_executor(options.executor, options.workers)
    try:
        search(module.nothing, space, executor, 2 * options.workers, generations=1)  # starts the workers
        found, seconds = search(module.nothing, space, executor, 50, evaluations=options.evaluations)
    finally:
        executor.close()
    print(
        f"{options.executor}, {options.workers} workers: {len(found)} evaluations of a proxy that does nothing in "
        f"{seconds:.1f} s, {60 * len(found) / seconds:.0f} a minute"
    )


def plain_runs(options: argparse.Namespace) -> None:
    """The same trainings as a user without a search starts them, each with an evaluation at its end."""
    from paramap_d2.config import read_config

    script = Path(__file__).parents[1] / "projects" / "ParamAP" / "train_net.py"
    opts = [str(opt) for opt in [*read_config(options.config_file, options.opts).PROXY.OPTS, *options.opts]]

    def start(folder: str, number: int, **environment: str) -> subprocess.Popen:
        command = [sys.executable, str(script), "--config-file", options.config_file, "SEED", "0", *opts]
        command += ["OUTPUT_DIR", str(Path(folder) / str(number))]
        with open(Path(folder) / f"{number}.log", "w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment})

    for together, environment in ((1, {}), (2, {"OMP_NUM_THREADS": "1"})):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            for first in range(0, options.population, together):
                numbers = range(first, min(first + together, options.population))
                for number, run in [(n, start(folder, n, **environment)) for n in numbers]:
                    if run.wait():
                        sys.exit((Path(folder) / f"{number}.log").read_text() + "train_net.py failed")
            seconds = time.perf_counter() - begin
        print(
            f"train_net.py, {together} at a time: {options.population} trainings in {seconds:.1f} s, "
            f"{3600 * options.population / seconds:.0f} an hour",
            flush=True,
        )


def real(options: argparse.Namespace) -> None:
    from paramap_d2.search.proxies.config import read_proxy_config
    from paramap_d2.search.proxies.proxy import Proxy
    from paramap_d2.search.space import SearchSpace

    config = read_proxy_config(options.config_file, options.opts)
    space = SearchSpace(config.heads)
    walls = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            executor = build_executor(options.executor, workers)
            try:
                proxy = Proxy(config, space, "AP", folder)
                found, _ = search(proxy, space, executor, options.population, generations=1)
            finally:
                executor.close()
            walls.append(time.perf_counter() - begin)
        busy = sum(e.seconds for e in found)
        failed = sum(e.status != "finished" for e in found)
        print(
            f"{workers} worker{'s' * (workers > 1)}: {len(found)} proxies ({failed} failed) in {walls[-1]:.1f} s, "
            f"{3600 * len(found) / walls[-1]:.0f} an hour; a proxy {busy / len(found):.1f} s; beside the proxies "
            f"{1 - busy / workers / walls[-1]:.1%} of the time",
            flush=True,
        )
    print(f"two workers do {walls[0] / walls[1]:.2f} times the proxies of one in a time")


def main() -> None:
    options = parser().parse_args()
    if options.before and not (options.config_file or "").endswith((".yaml", ".yml")):
        parser().error("--before needs --config-file with a YAML config")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning)
    if options.before:
        plain_runs(options)
    (real if options.config_file else bookkeeping)(options)


if __name__ == "__main__":
    main()
