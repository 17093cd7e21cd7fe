"""Searches of made-up proxies: rows as a store has them, and whole ones by the real search."""

import hashlib
import random

import numpy as np

from paramap_d2.search.algorithms import build_algorithm
from paramap_d2.search.algorithms.sampling import rounded
from paramap_d2.search.evolution import Schedule, evolve
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import DIVERGED, FAILED, FINISHED, STOPPED, TIME, Evaluation, Store

SPACE = SearchSpace(("dense",))


def row(number, generation=0, fitness=30.0, status="finished", space=SPACE, genome=None, **more):
    """One evaluation, of a genome drawn by its number."""
    genome = rounded(np.random.default_rng(number).random(space.genes)) if genome is None else genome
    values = {"position": number % 4, "seed": 0, "seconds": 60.0, "started": 1000.0 + 60 * number, **more}
    return Evaluation(generation, genome=list(genome), status=status, fitness=fitness, id=number, **values)


def two_generations():
    """Of four: one failure, one interrupted."""
    return [
        row(1, 0, 20.0),
        row(2, 0, 0.0, "diverged"),
        row(3, 0, 30.0),
        row(4, 0, 25.0),
        row(5, 1, 0.0, "interrupted"),
        row(6, 1, 28.0),
        row(7, 1, 31.5),
        row(8, 1, 29.0),
    ]


CLASSES = {"RBC": 1.1, "WBC": 1.3, "Platelets": 0.6}
VERSIONS = {"torch": "2.14.1", "detectron2": "0.6", "paramap_d2": "0.2.0", "machine": "a processor"}


def detector(task):
    """An AP that a few genes decide, with the noise of a seed; told on the way, diverging and failing at times."""
    drawn = random.Random(hashlib.sha256(repr((task.genome, task.seed, task.attempt)).encode()).digest())
    hours = {"seconds": 3000 + 1500 * drawn.random(), "versions": VERSIONS, "planned": task.iterations or 150}
    started = 1.7e9 + 4000 * (task.generation * 16 + task.position)
    if task.stage == "search" and drawn.random() < 0.05:
        log = "iteration 10 loss 0.93\niteration 20 loss nan"
        return Outcome(DIVERGED, error="loss is not finite", log=log, iterations=21, started=started, **hours)
    if task.stage == "search" and drawn.random() < 0.03:
        return Outcome(FAILED, error="no end within 3600 s", cause=TIME, started=started, **hours)
    good = 1 - (task.genome[0] - 0.6) ** 2 - 0.5 * (task.genome[17] - 0.2) ** 2 - 0.3 * (task.genome[-1] - 0.8) ** 2
    end = 38 * good + (4 if task.iterations else 0) + drawn.gauss(0, 1.2)
    curve = []
    for share, least in task.checkpoints:
        curve.append([round(share * hours["planned"]), share**0.5 * end + drawn.gauss(0, 0.5)])
        if least is not None and curve[-1][1] < least:
            error = f"AP {curve[-1][1]:.2f}, and {least:.2f} is needed to go on"
            return Outcome(
                STOPPED, curve[-1][1], {}, error=error, iterations=curve[-1][0], curve=curve, started=started, **hours
            )
    figures = {"bbox/AP": end, "bbox/AP50": 1.6 * end, "bbox/AP75": 0.9 * end}
    figures |= {f"bbox/AP-{name}": times * end for name, times in CLASSES.items()}
    return Outcome(FINISHED, end, figures, iterations=hours["planned"], curve=curve, started=started, **hours)


def made_search(folder, proxies=128, algorithm="ga", heads=("dense",), **schedule):
    """A finished search in a folder."""
    space = SearchSpace(heads)
    initial = [space.identity(), [0.3, 0.7] * (space.genes // 2) + [0.5] * (space.genes % 2)]
    settings = {
        "config_file": "my configs/retinanet.yaml",
        "metric": "AP",
        "space": space.describe(),
        "algorithm": algorithm,
        "population": 16,
        "elite": 1,
        "seed": 0,
        "initial": initial,
        "planned": proxies,
        "evaluations": proxies,
        "workers": 1,
        "loss_keys": ["MODEL.PARAM_AP.LOSS"],
        "options": {"init": ["linear", "other/best.json"], "threads": 2, "confirm": 3},
        "opts": ["SOLVER.MAX_ITER", "150"],
    }
    schedule = {"stopping": "median", "final_iterations": 600, "confirm": 3, **schedule}
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder / "search.db") as store:
        store.write_settings(settings)
        told = build_algorithm(algorithm, space.genes, 16, 0, initial, 1, -(-proxies // 16))
        evolve(told, detector, InlineExecutor(), store, Schedule(0, evaluations=proxies, **schedule))
    return folder
