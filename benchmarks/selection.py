#!/usr/bin/env python
"""What a search may claim: its own code on a made-up AP surface, where the truth is known.

Every run is a whole search of :func:`paramap_d2.search.evolution.evolve`, its confirmation included, with proxies that
take no time: 31 AP less a bowl around an optimum that is drawn anew for each run (uniform in the space of 41 genes,
five functions of one head), scaled so that the start, the identity, has 26 AP; and noise. The surface was chosen once,
as the simplest with a start and a best, and not changed after seeing a result.

Told of every cell: "before", the highest seen (of losses with several seeds, where there are any, the highest mean)
with its own AP, as searches reported it before there was a confirmation; and "after", what the confirmation hands over
with the gain that it reports. Cells are kept in a folder: a call that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

EXAMPLES = """examples:
  python benchmarks/selection.py --folder output/selection                  # all cells: hours
  python benchmarks/selection.py --folder output/selection --algorithm ga --noise 1.5 --budget 160
  python benchmarks/selection.py --folder output/selection --seeds 2       # with --reevaluate 2
"""

BEST, START, GENES = 31.0, 26.0, 41
NOISES = ("0.5", "1.5", "3", "growing", "diverging")
BUDGETS = (64, 160, 320)
ALGORITHMS = ("ga", "cmaes", "ppo", "random")
DIVERGING = 0.05
FIRST = 1000
"""Number, and so seed, of a cell's first run: algorithms and defaults were chosen on other ones."""


@dataclass(frozen=True)
class Cell:
    algorithm: str
    noise: str
    budget: int
    population: int = 16
    seeds: int = 1  # --reevaluate
    confirm: int = 3

    @property
    def name(self) -> str:
        return f"{self.algorithm}_{self.noise}_{self.budget}_p{self.population}_r{self.seeds}_c{self.confirm}"

    @classmethod
    def named(cls, name: str) -> Cell:
        algorithm, noise, *numbers = name.split("_")
        return cls(algorithm, noise, *(int(number.lstrip("prc")) for number in numbers))

    @property
    def label(self) -> str:
        """The algorithm, and what is not by default."""
        other = {f"population {self.population}": self.population != 16, f"{self.seeds} seeds": self.seeds > 1}
        other |= {f"--confirm {self.confirm}": self.confirm != 3}
        return ", ".join([f"`{self.algorithm}`", *(text for text, said in other.items() if said)])

    @property
    def place(self) -> tuple:
        """In a table."""
        order = ALGORITHMS.index(self.algorithm)
        return self.label.count(",") > 0, NOISES.index(self.noise), order, self.budget, self.label


class Surface:
    """Proxies of one run: a task's AP with noise.

    Noise is normal with a standard deviation of 0.5, 1.5 or 3 AP; ``growing`` is 1.5 at the start's AP and grows with
    the cube of the AP (half of it 5 AP lower); ``diverging`` is 1.5, and every training diverges with a probability of
    0.05, which is then AP 0.
    """

    def __init__(self, start: list[float], cell: Cell, run: int):
        self.noise, self.random = cell.noise, random.Random(f"{cell.name} {run}")
        optimum = random.Random(f"optimum {run}")
        self.optimum = numpy.array([optimum.random() for _ in start])
        self.steepness = (BEST - START) / numpy.square(numpy.array(start) - self.optimum).sum()

    def height(self, genome: list[float]) -> float:
        """AP without noise."""
        return max(0.0, BEST - self.steepness * float(numpy.square(numpy.array(genome) - self.optimum).sum()))

    def truth(self, genome: list[float]) -> float:
        """Mean AP of its trainings."""
        return self.height(genome) * (1 - DIVERGING * (self.noise == "diverging"))

    def __call__(self, task):
        from paramap_d2.search.proxies.proxy import Outcome

        if self.noise == "diverging" and self.random.random() < DIVERGING:
            return Outcome("diverged")
        height = self.height(task.genome)
        spread = {"growing": 1.5 * (height / START) ** 3, "diverging": 1.5}.get(self.noise) or float(self.noise)
        return Outcome("finished", max(0.0, height + self.random.gauss(0, spread)))


class Memory:
    """A store that forgets."""

    path = "memory"

    def __init__(self):
        self.rows, self.kept = [], {}

    def add(self, evaluation):
        self.rows.append(replace(evaluation, id=len(self.rows) + 1))
        return self.rows[-1]

    def evaluations(self):
        return list(self.rows)

    def settings(self):
        return self.kept

    def write_settings(self, settings):
        self.kept.update(settings)

    def told(self):
        return {}

    def tell(self, generation, told):
        pass


def simulate(cell: Cell, run: int) -> dict:
    """One search and what became of it; the same for the same cell and run."""
    from paramap_d2.search.algorithms import build_algorithm
    from paramap_d2.search.candidates import best_candidate
    from paramap_d2.search.confirmation import verdict
    from paramap_d2.search.evolution import Schedule, evolve
    from paramap_d2.search.executors.local import InlineExecutor
    from paramap_d2.search.space import SearchSpace
    from paramap_d2.search.store import PROXIES

    start = SearchSpace(("dense",)).identity()
    surface, store = Surface(start, cell, run), Memory()
    rounds = math.ceil(cell.budget / cell.population)
    algorithm = build_algorithm(cell.algorithm, GENES, cell.population, run, [start], generations=rounds)
    schedule = Schedule(run, evaluations=cell.budget, repeats=cell.seeds, confirm=cell.confirm)
    evolve(algorithm, surface, InlineExecutor(), store, schedule)
    found = verdict(store.evaluations(), store.settings())
    seen = best_candidate(e for e in store.evaluations() if e.stage in PROXIES)
    return {
        "start": surface.truth(found.start),
        "seen": surface.truth(seen.genome),
        "seen_reported": seen.mean,
        "challenger": surface.truth(found.challenger),
        "gain": found.gain,
        "interval": found.interval,
    }


def summary(records: list[dict]) -> dict[str, float]:
    """Figures of a cell's runs; AP, and shares from 0 to 1."""

    def mean(values) -> float:
        values = list(values)
        return statistics.fmean(values) if values else math.nan

    def covered(r: dict) -> bool:
        return r["interval"][0] <= r["challenger"] - r["start"] <= r["interval"][1]

    passed = [r for r in records if r["gain"] > 0]
    gains = [(r["challenger"] - r["start"]) * (r["gain"] > 0) for r in records]
    return {
        "runs": len(records),
        "seen": mean(r["seen"] for r in records),
        "seen bias": mean(r["seen_reported"] - r["seen"] for r in records),
        "seen worse": mean(r["seen"] < r["start"] for r in records),
        "true": mean(r["start"] for r in records) + mean(gains),
        "gain": mean(gains),
        "gain error": statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan,
        "bias": mean(r["gain"] - (r["challenger"] - r["start"]) for r in records),
        "passed": len(passed) / len(records),
        "passed bias": mean(r["gain"] - (r["challenger"] - r["start"]) for r in passed),
        "covered": mean(map(covered, records)),
        "passed covered": mean(map(covered, passed)),
        "worse": mean(r["gain"] > 0 and r["challenger"] < r["start"] for r in records),
    }


def table(cells: dict[Cell, list[dict]]) -> str:
    lines = [
        "| algorithm | noise | proxies | highest seen: true AP | its AP is too high by | worse than the start "
        "| handed over: true AP | true gain | challenger handed over | bias of the gain (of those) "
        "| covered (of those) | worse than the start |",
        "| --- | --- |" + " ---: |" * 10,
    ]
    for cell, records in sorted(cells.items(), key=lambda item: item[0].place):
        s = summary(records)
        lines.append(
            f"| {cell.label} | {cell.noise} | {cell.budget} | {s['seen']:.1f} | {s['seen bias']:.1f} "
            f"| {s['seen worse']:.0%} | {s['true']:.2f} | {s['gain']:+.2f} ± {1.96 * s['gain error']:.2f} "
            f"| {s['passed']:.0%} | {s['bias']:+.2f} ({s['passed bias']:+.2f}) "
            f"| {s['covered']:.1%} ({s['passed covered']:.1%}) | {s['worse']:.1%} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--folder", type=Path, required=True, help="where cells are kept")
    p.add_argument("--runs", type=int, default=400, help="searches of each cell (default 400)")
    p.add_argument("--algorithm", action="append", choices=ALGORITHMS, help="several (default: all)")
    p.add_argument("--noise", action="append", choices=NOISES, help="several (default: all)")
    p.add_argument("--budget", action="append", type=int, help="proxies of a search; several (default 64, 160, 320)")
    p.add_argument("--population", type=int, default=16, help="of the searches (default 16)")
    p.add_argument("--seeds", type=int, default=1, help="--reevaluate of the searches (default 1)")
    p.add_argument("--confirm", type=int, default=3, help="--confirm of the searches, at least 2 (default 3)")
    p.add_argument("--only-table", action="store_true", help="of all cells that are there whole; run nothing")
    return p


def main() -> None:
    options = parser().parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[Cell, list[dict]] = {}
    if options.only_table:
        for path in options.folder.glob("*.jsonl"):
            records = [json.loads(line) for line in path.read_text().splitlines()]
            if len(records) >= options.runs:
                found[Cell.named(path.stem)] = records[: options.runs]
        print(table(found))
        return
    chosen = (options.noise or NOISES, options.budget or BUDGETS, options.algorithm or ALGORITHMS)
    for noise, budget, algorithm in itertools.product(*chosen):
        cell = Cell(algorithm, noise, budget, options.population, options.seeds, options.confirm)
        path = options.folder / f"{cell.name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        with open(path, "a") as file:
            for run in range(len(records), options.runs):
                records.append(simulate(cell, FIRST + run))
                file.write(json.dumps(records[-1]) + "\n")
        found[cell] = records[: options.runs]
    print(table(found))


if __name__ == "__main__":
    main()
