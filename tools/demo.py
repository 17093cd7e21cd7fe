#!/usr/bin/env python
"""The whole of it in a few minutes: evolve a loss for a small RetinaNet on `shapes`, then train with it and without.

Runs tools/evolve.py and then projects/ParamAP/train_net.py twice, with the best loss and with the stock focal and L1
losses, same budget and seed, and prints the AP of both on images that the search has not seen. Everything is left in
OUT; a second call goes on where the first was interrupted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "projects/ParamAP/configs/shapes_retinanet_R_18_FPN.yaml"
SEARCH = ["--population", "6", "--generations", "3", "--workers", "2", "--seed", "0"]
console = Console(highlight=False)


def shown(command: list[str]) -> list[str]:
    console.print(f"[bold]$ python {' '.join(command)}[/bold]", soft_wrap=True)
    return [sys.executable, *command]


def figures(folder: Path) -> dict:
    """The last evaluation in a training's metrics.json; empty if there is none yet."""
    try:
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    except (OSError, ValueError):
        return {}
    return next((line for line in reversed(lines) if "bbox/AP" in line), {})


def train(trainings: dict[Path, list[str]]) -> None:
    """Run the trainings at the same time, each with its share of the processors."""
    threads = max(1, (os.cpu_count() or 1) // len(trainings))
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
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            for folder, command in trainings.items():
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / "output.txt", "w") as output:
                    process = subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
                    )
                running[process] = folder, progress.add_task(f"training {folder.name}", total=200)
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
            sys.exit(f"error: the training in {folder} failed; see {folder / 'output.txt'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="output/demo", metavar="OUT", help="(default output/demo)")
    out = Path(parser.parse_args().output_dir).absolute()

    command = ["tools/evolve.py", "--config-file", CONFIG, *SEARCH, "--output-dir", os.path.relpath(out, ROOT)]
    if (out / "search.db").exists():
        command.append("--resume")
    if code := subprocess.run(shown(command), cwd=ROOT).returncode:
        sys.exit(code)
    if not (out / "best.json").exists():
        sys.exit(f"error: no proxy reached an AP; see {out / 'report.html'}")

    start = ["projects/ParamAP/train_net.py", "--config-file", CONFIG]
    options = {
        out / "searched": ["MODEL.PARAM_AP.LOSS", os.path.relpath(out / "best.json", ROOT)],
        out / "focal_L1": ["MODEL.META_ARCHITECTURE", "RetinaNet"],
    }
    trainings = {}
    for folder, option in options.items():
        if not figures(folder):
            places = ["DATASETS.TEST", "('shapes_test',)", "OUTPUT_DIR", os.path.relpath(folder, ROOT)]
            trainings[folder] = shown([*start, *option, *places])
    if trainings:
        train(trainings)

    table = Table("loss", "AP", "AP50", "AP75", title="shapes_test, 200 iterations, one seed")
    for folder, name in zip(options, ("searched", "focal + L1"), strict=True):
        found = figures(folder)
        table.add_row(name, *(f"{found[f'bbox/{figure}']:.1f}" for figure in ("AP", "AP50", "AP75")))
    console.print(table)
    for name, what in (("report.html", "the search"), ("functions.png", "the loss"), ("history.png", "its history")):
        console.print(f"{what}: {os.path.relpath(out / name)}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
