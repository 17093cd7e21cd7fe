"""What each table of the paper wants trained: its cells, and the searches whose losses they train with."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paper_rows import CONFIGS, RESULTS, Training, of_data

from paramap_d2.model_zoo import get_config_file

RATES = {
    ("bccd", "retinanet"): (0.002, 0.004, 0.001),
    ("bccd", "faster_rcnn"): (0.001, 0.002, 0.0005),
    ("bccd", "deformable_detr"): (0.002, 0.004, 0.001),
    ("own", "retinanet"): (0.002, 0.004, 0.001),
    ("shapes", "retinanet"): (0.001, 0.002, 0.0005),
}
"""Learning rates that are tried first, by data set and detector; the first is the config's own."""

PUBLISHED = {"retinanet": "retinanet-coco", "faster_rcnn": "fasterrcnn-coco", "deformable_detr": "square"}
"""Deformable DETR's searched loss was not published; the best handcrafted one stands for it."""

SPREAD = 1.1
"""AP, between seeds of one loss on BCCD: what is less apart is not told apart by one seed."""

TITLES = {
    "1": "Table 1: the gradient of the precision's denominator",
    "2": "Table 2: losses searched on other data",
    "3": "Table 3: functions and gradient scale",
    "figure1": "Figure 1: the functions",
    "curves": "AP over iterations",
    "recipes": "Learning rates of the proxies",
    "final": "The final comparison",
    "ranks": "What a proxy tells of a whole training",
}

PROXY_ITERATIONS = 150

GUESSED_SECONDS = {"retinanet": 0.6, "faster_rcnn": 0.9, "deformable_detr": 0.9}
"""CPU seconds an iteration, evaluations included, where no row tells."""


@dataclass(frozen=True)
class Search:
    """A search whose best loss becomes results/losses/<name>.json.

    Args:
        evaluations: proxies of it.
        mode, grad_scale: of ``paramap evolve``; no scale is a searched one.
    """

    name: str
    dataset: str
    detector: str
    evaluations: int
    mode: str = "separate"
    grad_scale: float | None = None

    def command(self, folder: str, workers: int) -> list[str]:
        """Arguments of ``paramap``; the search starts at the identity, as in the paper."""
        population = 16
        command = ["evolve", "--config-file", get_config_file(CONFIGS[self.dataset, self.detector])]
        command += ["--output-dir", folder, "--workers", workers, "--threads", "1", "--seed", "0"]
        command += ["--init", "linear", "--stop", "halving"]
        command += ["--population", population, "--generations", math.ceil(self.evaluations / population)]
        command += ["--evaluations", self.evaluations, "--mode", self.mode]
        if self.grad_scale is not None:
            command += ["--fix-grad-scale", self.grad_scale]
        data = ["DATASETS.TRAIN", f"('{self.dataset}_train',)", "DATASETS.TEST", f"('{self.dataset}_val',)"]
        return [str(part) for part in [*command, *of_data(self.dataset), *data]]


def searched(dataset: str, detector: str) -> str:
    """The loss of the long search, 320 proxies."""
    return f"{dataset}_{detector}"


def searched_by_100(dataset: str, mode: str = "separate", grad_scale: float | None = None) -> str:
    return f"{dataset}_retinanet_100_{mode}" + ("" if grad_scale is None else f"_scale{grad_scale:g}")


def search_of(name: str) -> Search:
    """The search that a loss file's name says."""
    long = {searched(dataset, detector): (dataset, detector) for dataset, detector in CONFIGS}
    if name in long:
        return Search(name, *long[name], evaluations=320)
    for dataset, mode, scale in itertools.product(("bccd", "own", "shapes"), ("separate", "shared"), (None, 1.0)):
        if name == searched_by_100(dataset, mode, scale):
            return Search(name, dataset, "retinanet", 100, mode, scale)
    raise LookupError(f"no search makes {RESULTS.name}/losses/{name}.json")


@dataclass(frozen=True)
class Cell:
    """A row of a table: trainings that differ by their seeds alone."""

    labels: tuple[str, ...]
    trainings: list[Training]


@dataclass(frozen=True)
class Part:
    """A table, or a part of one with columns of its own."""

    title: str
    columns: tuple[str, ...]
    cells: list[Cell]
    against: list[Cell] = field(default_factory=list)  # baselines: the others are told apart from the best of them


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Args:
        dataset: of the tables that are of one.
        detectors: of :data:`CONFIGS`.
        iterations: of a full training.
    """

    dataset: str
    detectors: Sequence[str]
    iterations: int
    seeds: int

    def parts(self, table: str, rows: Mapping[str, Mapping[str, Any]]) -> list[Part]:
        """Of a table; what hangs on rows that are not there yet is left out."""
        makers = {
            "1": self._blocked_or_not,
            "2": self._other_data,
            "3": self._functions,
            "curves": self._curves,
            "recipes": self._recipes,
            "final": self._final,
            "ranks": self._ranks,
        }
        return makers[table](rows) if table in makers else []

    def _cell(self, labels: tuple[str, ...], training: Training, seeds: Sequence[int] | None = None) -> Cell:
        seeds = range(self.seeds) if seeds is None else seeds
        return Cell(labels, [replace(training, seed=seed) for seed in seeds])

    def _training(self, detector: str, loss: str, **others: Any) -> Training:
        given = {"seed": 0, "iterations": self.iterations, "dataset": self.dataset, **others}
        given.setdefault("learning_rate", RATES[given["dataset"], detector][0])
        return Training(detector=detector, loss=loss, **given)

    def _rates(self, detector: str) -> list[float]:
        return sorted(RATES[self.dataset, detector])

    def _blocked_or_not(self, rows: Mapping) -> list[Part]:
        cells = []
        for detector, blocked in itertools.product(self.detectors, (True, False)):
            labels = detector, PUBLISHED[detector], "blocked" if blocked else "not blocked"
            seeds = range(min(2, self.seeds)) if detector == "deformable_detr" else None
            training = self._training(detector, PUBLISHED[detector], block_gradient=blocked)
            cells.append(self._cell(labels, training, seeds))
        return [Part(TITLES["1"], ("detector", "loss", "gradient of the denominator"), cells)]

    def _other_data(self, rows: Mapping) -> list[Part]:
        data, cells = ("bccd", "own"), []
        for trained in data:
            for loss in ("focal-l1", "focal-giou", *map(searched_by_100, data)):
                training = self._training("retinanet", loss, dataset=trained)
                cells.append(self._cell((trained, loss), training))
        return [Part(TITLES["2"], ("trained on", "loss (searched on)"), cells)]

    def _functions(self, rows: Mapping) -> list[Part]:
        cells = [self._cell(labels, training) for labels, training in self._handcrafted_and_searched()]
        return [Part(TITLES["3"], ("functions", "gradient scale"), cells)]

    def _handcrafted_and_searched(self) -> Iterator[tuple[tuple[str, str], Training]]:
        for name in ("sigmoid", "sqrt", "linear", "square"):  # whose own scale is 1
            yield (name, "1"), self._training("retinanet", name)
        for scale, mode in itertools.product((1.0, None), ("shared", "separate")):
            loss = searched_by_100(self.dataset, mode, scale)
            yield (f"searched, {mode}", "1" if scale else "searched"), self._training("retinanet", loss)

    def _ranks(self, rows: Mapping) -> list[Part]:
        """Table 3's losses, the published one and that of the long search, as proxies and as whole trainings."""
        losses = [*self._handcrafted_and_searched()]
        for loss in (PUBLISHED["retinanet"], searched(self.dataset, "retinanet")):
            losses.append(((loss, "its own"), self._training("retinanet", loss)))
        parts = []
        for iterations in (PROXY_ITERATIONS, self.iterations):
            cells = [self._cell(labels, replace(training, iterations=iterations)) for labels, training in losses]
            parts.append(Part(f"{iterations} iterations", ("functions", "gradient scale"), cells))
        return parts

    def _losses(self, detector: str) -> tuple[list[str], list[str]]:
        """Baselines and others of the comparisons of whole trainings."""
        mine = searched(self.dataset, detector)
        ended = ["retinanet-coco-linear", *(["retinanet-coco-searched"] if self.dataset == "bccd" else [])]
        return {
            "retinanet": (
                ["focal-l1", "focal-giou", "ap-loss", "rank-sort"],
                ["retinanet-coco", *ended, "retinanet-coco-l1", "square", mine],
            ),
            "faster_rcnn": (["ce-l1"], ["fasterrcnn-coco", "square", mine]),
            "deformable_detr": (["focal-l1-giou"], ["square", mine]),
        }[detector]

    def _curves(self, rows: Mapping) -> list[Part]:
        parts = []
        for detector in self.detectors:
            baselines, others = self._losses(detector)
            losses = others[0], *baselines, *others[1:]
            cells = [self._cell((loss,), self._training(detector, loss)) for loss in losses]
            parts.append(Part(f"{self.dataset} {detector}", ("loss",), cells))
        return parts

    def _recipes(self, rows: Mapping) -> list[Part]:
        kept = {
            "retinanet": ("retinanet-coco", "focal-l1", "focal-giou", "focal-giou-weight-1"),
            "faster_rcnn": ("fasterrcnn-coco", "ce-l1"),
            "deformable_detr": ("square", "focal-l1-giou"),
        }
        cells = []
        for detector in self.detectors:
            for loss, rate in itertools.product(kept[detector], self._rates(detector)):
                training = self._training(detector, loss, learning_rate=rate, iterations=PROXY_ITERATIONS)
                cells.append(self._cell((detector, loss, f"{rate:g}"), training, [0]))
        return [Part(TITLES["recipes"], ("detector", "loss", "learning rate"), cells)]

    def _final(self, rows: Mapping) -> list[Part]:
        parts = []
        for detector in self.detectors:
            baselines, others = self._losses(detector)
            tried = {loss: self._tried(detector, loss, rows) for loss in (others[0], *baselines, *others[1:])}
            first = {rate: order for order, rate in enumerate(RATES[self.dataset, detector])}
            made = [training for trainings in tried.values() for training in trainings]
            made.sort(key=lambda training: first.get(training.learning_rate, len(first)))
            by_val = [self._cell((training.loss, f"{training.learning_rate:g}"), training, [0]) for training in made]
            on_test = {}
            for loss in (*baselines, *others):
                if rate := best_rate(tried[loss], rows):
                    training = self._training(detector, loss, learning_rate=rate, split="test")
                    on_test[loss] = self._cell((loss, f"{rate:g}"), training, range(1, self.seeds + 1))
            where = f"{self.dataset} {detector}, {self.iterations} iterations"
            parts.append(Part(f"{where}: learning rates by val, seed 0", ("loss", "learning rate"), by_val))
            against = [on_test[loss] for loss in baselines if loss in on_test]
            title = f"{where}: test, each loss at its best rate by val, seeds that chose nothing"
            parts.append(Part(title, ("loss", "learning rate"), [*on_test.values()], against))
        return parts

    def _tried(self, detector: str, loss: str, rows: Mapping) -> list[Training]:
        """By learning rate: the three, and further ones by a factor of two while the outermost is clearly the best."""
        made = [self._training(detector, loss, learning_rate=rate) for rate in self._rates(detector)]
        while all(found := [row_of(training, rows) for training in made]):
            aps = [row["AP"] for row in found]
            if aps[-1] == max(aps) >= aps[-2] + SPREAD:
                made.append(replace(made[-1], learning_rate=2 * made[-1].learning_rate))
            elif aps[0] == max(aps) >= aps[1] + SPREAD:
                made.insert(0, replace(made[0], learning_rate=made[0].learning_rate / 2))
            else:
                break
        return made


def best_rate(trainings: Sequence[Training], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The learning rate of the highest AP, when all of the trainings have ended."""
    found = [row_of(training, rows) for training in trainings]
    if not all(found):
        return None
    return max(zip(found, trainings, strict=True), key=lambda pair: pair[0]["AP"])[1].learning_rate


def row_of(training: Training, rows: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The training's row; None where it has not ended, or its loss is not there yet.

    The same training, judged on ``test``, was looked at on ``val`` too: with its AP alone, the last of its curve.
    """
    if training.loss_file is not None and not training.loss_file.exists():
        return None
    row = rows.get(training.key())
    if row is None and training.split == "val":
        row = rows.get(replace(training, split="test").key())
        if row is not None:
            ap = row["curve"][-1][1] if row["status"] == "finished" else row["AP"]
            row = {**row, "split": "val", "AP": ap, "AP50": None, "AP75": None, "resampled": []}
    return row


def missing(parts: Sequence[Part], rows: Mapping[str, Mapping[str, Any]]) -> list[Training]:
    """Trainings to make, in order: the first seed of all cells, then the second."""
    cells = [cell.trainings for part in parts for cell in part.cells]
    in_order = [training for same in itertools.zip_longest(*cells) for training in same if training is not None]
    return [training for training in dict.fromkeys(in_order) if row_of(training, rows) is None]


def expected_seconds(training: Training, rows: Mapping[str, Mapping[str, Any]]) -> float:
    """CPU time of a training, by the rows of the same data set and detector, or the detector."""
    for columns in (("dataset", "detector"), ("detector",)):
        known = [
            row["cpu_seconds"] / row["iterations"]
            for row in rows.values()
            if row["cpu_seconds"] and all(row[c] == getattr(training, c) for c in columns)
        ]
        if known:
            return statistics.median(known) * training.iterations
    return GUESSED_SECONDS[training.detector] * training.iterations
