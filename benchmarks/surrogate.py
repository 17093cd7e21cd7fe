#!/usr/bin/env python
"""Who finds how much by how many proxies: the algorithms on a surrogate of a real task.

The losses of real searches of one config (their stores, packed in ``benchmarks/results/`` or in a search's folder) are
regressed on what they are: AP on the five functions' values at eight places each and the log of the gradient scale. A
proxy that was ended early counts with what it would have come to, had it gone on as the others did. Two regressions are
tried, a Gaussian process and a random forest; the one whose predictions of held-out losses rank them better (Spearman,
ten folds) is the surrogate, and its error there, the trainings' noise included, the noise of the simulated proxies
(``--noise`` names another: trainings of one loss differ by far less than the surrogate errs).

Then every algorithm searches the surrogate from the identity, at an equal budget, many times. Told is what the
surrogate gives for the loss that a search would confirm after so many proxies (the algorithm's own centre, or the best
seen if that beats it in a run-off with the same noise), and how many proxies that needs to the AP of the reference
loss. A surrogate knows little of what no search has tried: predictions are never above the best that was seen.
"""

from __future__ import annotations

import argparse
import lzma
import math
import random
import statistics
import tempfile
from pathlib import Path

import numpy

EXAMPLES = """examples:
  python benchmarks/surrogate.py benchmarks/results/bccd_ga.db.xz
  python benchmarks/surrogate.py output/by_ga output/by_ppo
  python benchmarks/surrogate.py output/search --reference retinanet-coco --runs 20
  python benchmarks/surrogate.py output/search --noise 1     # what its trainings of several seeds differ by
"""

PLACES = numpy.linspace(0, 1, 10)[1:-1]
"""Where functions are looked at; at 0 and 1 all of them are 0 and 1."""

FOLDS = 10
BUDGETS = (32, 64, 96, 160, 320)


def read_store(path: Path) -> tuple[list, dict]:
    """Evaluations and settings of a search's folder, a store or an xz-packed store."""
    from paramap_d2.search.status import read_search

    if path.is_dir():
        return read_search(path)
    with tempfile.TemporaryDirectory() as folder:
        data = path.read_bytes()
        (Path(folder) / "search.db").write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
        return read_search(folder)


def one_each(genomes: numpy.ndarray, aps: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Each genome once, with its mean AP: searches of one seed begin with the same draws, and what is held out must not
    be known from another search."""
    found: dict[tuple[float, ...], list[float]] = {}
    for genome, ap in zip(genomes.tolist(), aps.tolist(), strict=True):
        found.setdefault(tuple(genome), []).append(ap)
    return numpy.array(list(found)), numpy.array([statistics.fmean(values) for values in found.values()])


def features(genome: list[float], space) -> list[float]:
    found = []
    for loss in space.decode(genome).values():
        for function in loss.functions.values():
            xs, ys = zip(*function.points, strict=True)
            found += numpy.interp(PLACES, xs, ys).tolist()
        found.append(math.log10(loss.grad_scale))
    return found


def regressions() -> dict:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kernel = ConstantKernel(1.0) * Matern(5.0, nu=2.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    return {
        "Gaussian process": make_pipeline(StandardScaler(), process),
        "random forest": RandomForestRegressor(500, min_samples_leaf=2, random_state=0),
    }


class Surrogate:
    """AP by genome; fitted to what searches of one space have tried."""

    def __init__(self, genomes, aps: numpy.ndarray, space):
        from scipy.stats import spearmanr
        from sklearn.model_selection import KFold, cross_val_predict

        self.space, x, y = space, numpy.array([features(g, space) for g in genomes]), aps
        self.best, self.scores = float(y.max()), {}
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        for name, model in regressions().items():
            held_out = cross_val_predict(model, x, y, cv=folds)
            upper = y >= numpy.median(y)
            self.scores[name] = (
                float(spearmanr(held_out, y).statistic),
                float(spearmanr(held_out[upper], y[upper]).statistic),
                float(numpy.sqrt(numpy.mean((held_out - y)[upper] ** 2))),
            )
        self.name = max(self.scores, key=lambda name: self.scores[name][0])
        self.noise = self.scores[self.name][2]
        self.model = regressions()[self.name].fit(x, y)

    def __call__(self, genomes: list[list[float]]) -> list[float]:
        found = self.model.predict(numpy.array([features(g, self.space) for g in genomes]))
        return [min(self.best, max(0.0, float(ap))) for ap in found]


def climb(
    surrogate: Surrogate, algorithm: str, population: int, budget: int, runs: int
) -> list[list[tuple[int, float]]]:
    """Proxies so far and AP of the challenger, after every generation of each of several searches, which differ by
    their seeds. All are asked together: a forest takes as long for one loss as for hundreds."""
    from paramap_d2.search.algorithms import build_algorithm

    space, rounds = surrogate.space, math.ceil(budget / population)
    searches = [
        build_algorithm(algorithm, space.genes, population, run, [space.identity()], generations=rounds)
        for run in range(runs)
    ]
    noises = [random.Random(f"{algorithm} {run}") for run in range(runs)]
    used, found, seen = 0, [[] for _ in searches], [(-math.inf, 0.0)] * runs
    while used + population <= budget:
        asked = [search.ask() for search in searches]
        count = len(asked[0])
        used += count
        aps = surrogate([genome for genomes in asked for genome in genomes])
        for run, (search, noise) in enumerate(zip(searches, noises, strict=True)):
            of_run = aps[run * count : (run + 1) * count]
            told = [max(0.0, ap + noise.gauss(0, surrogate.noise)) for ap in of_run]
            search.tell(told)
            seen[run] = max([seen[run], *zip(told, of_run, strict=True)])
        centres = [search.centre() for search in searches]
        known = iter(surrogate([centre for centre in centres if centre is not None] or [space.identity()]))
        for climbed, centre, (_, best), noise in zip(found, centres, seen, noises, strict=True):
            ap = best if centre is None else challenger(next(known), best, surrogate.noise, noise)
            climbed.append((used, ap))
    return found


def challenger(centre: float, best: float, spread: float, noise: random.Random) -> float:
    """AP of which of the two a run-off names, by trainings with noise."""
    from paramap_d2.search.confirmation import RUN_OFF_SEEDS, winner
    from paramap_d2.search.store import FINISHED, Evaluation

    trained = [
        [Evaluation(0, 0, [], seed, FINISHED, ap + noise.gauss(0, spread)) for seed in range(RUN_OFF_SEEDS)]
        for ap in (centre, best)
    ]
    return (centre, best)[winner(*trained)]


def table(surrogate: Surrogate, target: float, populations: dict[str, int], runs: int) -> str:
    budget = max(BUDGETS)
    columns = ["algorithm", "generation", *(f"{b} proxies" for b in BUDGETS), f"proxies to {target:.1f} AP"]
    lines = ["| " + " | ".join(columns) + " |", "| --- | ---: |" + " ---: |" * (len(BUDGETS) + 1)]
    for algorithm, population in populations.items():
        climbs = climb(surrogate, algorithm, population, budget, runs)
        cells = []
        for b in BUDGETS:
            aps = [ap for c in climbs for ap in [ap for used, ap in c if used <= b][-1:]]
            if not aps:  # its first generation is larger
                cells.append("–")
                continue
            error = statistics.stdev(aps) / math.sqrt(runs) if runs > 1 else math.nan
            cells.append(f"{statistics.fmean(aps):.1f} ± {error:.1f}")
        needed = [next((used for used, ap in c if ap >= target), math.inf) for c in climbs]
        middle = statistics.median(needed)
        reached = sum(math.isfinite(n) for n in needed)
        cells.append(f"{middle:.0f} ({reached} of {runs})" if math.isfinite(middle) else f"never ({reached} of {runs})")
        lines.append(f"| `{algorithm}` | {population} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("searches", type=Path, nargs="+", help="folders of searches, or their stores, packed by xz or not")
    p.add_argument("--reference", default="retinanet-coco", help="the loss to reach (default retinanet-coco)")
    p.add_argument("--runs", type=int, default=40, help="simulated searches of each algorithm (default 40)")
    p.add_argument(
        "--noise",
        type=float,
        metavar="AP",
        help="standard deviation of the simulated proxies' noise (default: the surrogate's error)",
    )
    p.add_argument("--population", type=int, default=16, help="of all but ppo (default 16)")
    p.add_argument("--ppo-population", type=int, default=8, help="of ppo (default 8, the paper's)")
    return p


def main() -> None:
    from paramap_d2.errors import UserError
    from paramap_d2.losses import load_loss
    from paramap_d2.search.importance import learnt_from
    from paramap_d2.search.status import searched_space

    options = parser().parse_args()
    try:
        read = [read_store(path) for path in options.searches]
        spaces = [searched_space(path, settings) for path, (_, settings) in zip(options.searches, read, strict=True)]
        reference = spaces[0].encode(load_loss(options.reference), options.reference)
    except (UserError, OSError, lzma.LZMAError) as error:
        raise SystemExit(f"error: {error}") from None
    if any(space != spaces[0] for space in spaces):
        raise SystemExit("error: the searches are of different spaces")
    space = spaces[0]
    learnt = [learnt_from(evaluations) for evaluations, _ in read]  # each by how its own proxies went on
    genomes, aps = one_each(*(numpy.concatenate(parts) for parts in zip(*learnt, strict=True)))
    if len(genomes) < 5 * FOLDS:
        raise SystemExit(f"error: {len(genomes)} losses are too few to learn from; {5 * FOLDS} would do")
    surrogate = Surrogate(genomes, aps, space)
    if options.noise is not None:
        surrogate.noise = options.noise
    print(f"{len(genomes)} losses, best {surrogate.best:.1f} AP; held out, ten folds:\n")
    print("| regression | Spearman | of the better half | its root mean square error (AP) |")
    print("| --- | ---: | ---: | ---: |")
    for name, (rho, upper, error) in surrogate.scores.items():
        print(f"| {name} | {rho:.2f} | {upper:.2f} | {error:.1f} |")
    target, start = surrogate([reference, space.identity()])
    print(
        f"\nBy the {surrogate.name}: {options.reference} {target:.1f} AP, the identity {start:.1f}; proxies with a "
        f"noise of {surrogate.noise:.1f} AP.\n"
    )
    populations = dict.fromkeys(("ga", "cmaes", "random"), options.population) | {"ppo": options.ppo_population}
    print(table(surrogate, target, populations, options.runs))


if __name__ == "__main__":
    main()
