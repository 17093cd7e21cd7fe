"""``paramap demo``: the whole of it in a few minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file
from paramap_d2.search.executors.processors import processors

from .parser import CommandParser

DESCRIPTION = """
Evolve a loss for a small RetinaNet on `shapes`, then train with it and without.

Runs paramap evolve, from the identity, and then paramap train twice, with the loss that it ends with and with the stock
focal and L1 losses, same budget and seed, and shows the AP of both on images that the search has not seen, from the
beginning until it rises no more. The last picture is of what the first detects, its scores calibrated. Everything is
left in OUT; a second call goes on where the first was interrupted.
"""

EXAMPLES = """
  paramap demo
  paramap demo --output-dir output/second
"""

CONFIG = "shapes_retinanet_lite0_FPN.yaml"
SEARCH = "--init linear --algorithm ga --population 6 --generations 4 --workers 2 --seed 0".split()
ITERATIONS, EVERY = 400, 80
"""Of the two trainings: their length, and the iterations between two looks at the AP."""

IMAGES = 8
"""In the last picture."""

console = Console(highlight=False)


def build_parser() -> CommandParser:
    parser = CommandParser("demo", DESCRIPTION, EXAMPLES)
    parser.add_argument("--output-dir", default="output/demo", metavar="OUT", help="(default output/demo)")
    return parser


def shown(command: list[str]) -> list[str]:
    console.print(f"[bold]$ paramap {' '.join(command)}[/bold]", soft_wrap=True)
    return [sys.executable, "-m", "paramap_d2", *command]


def figures(folder: Path) -> dict[int, dict[str, float]]:
    """The evaluations in a training's metrics.json, by the iterations until then."""
    found = {}
    try:
        for line in map(json.loads, (folder / "metrics.json").read_text().splitlines()):
            if "bbox/AP" in line:
                # On the way Detectron2 counts the iterations before this one; at the end, all of them.
                found[min(line["iteration"] + 1, ITERATIONS)] = line
    except (OSError, ValueError):  # nothing there, or a line half written
        pass
    return found


def train(trainings: dict[Path, list[str]]) -> None:
    """Run the trainings at the same time, each with its share of the processors."""
    threads = max(1, processors() // len(trainings))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    running = {}
    try:
        with Progress(*columns, console=console) as progress:
            for folder, command in trainings.items():
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / "output.txt", "w") as output:
                    process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                running[process] = folder, progress.add_task(f"training {folder.name}", total=ITERATIONS)
            while any(process.poll() is None for process in running):
                for folder, row in running.values():
                    try:
                        last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
                        progress.update(row, completed=last["iteration"] + 1)
                    except (OSError, ValueError, LookupError):
                        pass  # nothing written yet, or a line half written
                time.sleep(1)
    finally:
        for process in running:
            process.kill()
    for process, (folder, _) in running.items():
        if process.wait() != 0:
            raise UserError(f"the training in {folder} failed; see {folder / 'output.txt'}")


def show_trainings(found: Mapping[str, Mapping[int, Mapping[str, float]]], picture: Path) -> None:
    """AP over iterations, as a table and a picture.

    Args:
        found: the evaluations of a training by the iterations until then, by the name of its loss.
    """
    from paramap_d2.search.report.over_iterations import draw_curves

    looks = list(range(EVERY, ITERATIONS + 1, EVERY))
    table = Table("loss", *map(str, looks), "AP50", title="AP on shapes_test after so many iterations, one seed")
    for name, by_iterations in found.items():
        aps = [f"{by_iterations[look]['bbox/AP']:.1f}" for look in looks]
        table.add_row(name, *aps, f"{by_iterations[ITERATIONS]['bbox/AP50']:.1f}")
    console.print(table)
    curves = {name: [[(at, by_iterations[at]["bbox/AP"]) for at in looks]] for name, by_iterations in found.items()}
    draw_curves(curves, picture, "shapes_test")


def draw_detections(config: Path, folder: Path, picture: Path) -> None:
    """What a training's calibrated detector sees in the first test images."""
    weights = folder / "model_calibrated.pth"
    if not weights.exists():
        raise UserError(f"the training in {folder} left no calibrated detector; see {folder / 'output.txt'}")
    import itertools

    from detectron2.checkpoint import DetectionCheckpointer

    from paramap_d2.config import read_config
    from paramap_d2.engine import Trainer
    from paramap_d2.engine import picture as pictures

    cfg = read_config(config)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(weights))
    loader = Trainer.build_test_loader(cfg, "shapes_test")
    inputs = [one for batch in itertools.islice(loader, IMAGES) for one in batch]
    pictures.draw_detections(model, inputs, "shapes_test", picture)


def main(arguments: Sequence[str]) -> int:
    out = Path(build_parser().parse_args(arguments).output_dir)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what it has started ends with it
    config = Path(get_config_file(CONFIG))
    if config.is_relative_to(Path.cwd()):  # in a checkout
        config = config.relative_to(Path.cwd())

    command = ["evolve", "--config-file", str(config), *SEARCH, "--output-dir", str(out)]
    if (out / "search.db").exists():
        command.append("--resume")
    if code := subprocess.run(shown(command)).returncode:
        return code

    options = {
        out / "searched": ["MODEL.PARAM_AP.LOSS", str(out / "best.json")],
        out / "focal_L1": ["MODEL.META_ARCHITECTURE", "RetinaNet"],
    }
    trainings = {}
    for folder, option in options.items():
        if ITERATIONS not in figures(folder):
            length = ["SOLVER.MAX_ITER", str(ITERATIONS), "TEST.EVAL_PERIOD", str(EVERY)]
            places = ["DATASETS.TEST", "('shapes_test',)", "OUTPUT_DIR", str(folder)]
            trainings[folder] = shown(["train", "--config-file", str(config), "--resume", *option, *length, *places])
    if trainings:
        train(trainings)
    show_trainings(dict(zip(("searched", "focal + L1"), map(figures, options), strict=True)), out / "curves.png")
    draw_detections(config, out / "searched", out / "detections.png")
    results = {
        "report.html": "the search",
        "functions.png": "the loss",
        "history.png": "its history",
        "curves.png": "both trainings",
        "searched/reliability.png": "its detector's scores, as trained and calibrated",
        "detections.png": "what it detects, at a score of 0.5",
    }
    for name, what in results.items():
        console.print(f"{what}: {out / name}", soft_wrap=True)
    return 0
