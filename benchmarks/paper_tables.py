#!/usr/bin/env python
"""The tables of the paper, on data that one CPU trains: detectors on EfficientNet-Lite0 with the shipped configs.

Every training that ends is a row of a SQLite file, and a call makes what its tables still lack, so that it can be
killed at any time and called again: trainings go on at their last checkpoint. Tables (Markdown, mean ± standard error
over seeds, with what they were trained with) and their pictures are written beside the file after each. Losses that a
table wants searched are searched first, and kept in results/losses.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

EXAMPLES = """data: BCCD under DETECTRON2_DATASETS (projects/ParamAP/README.md, Data). For Table 2 and --dataset own,
PARAMAP_DATASETS points to a file that names own_train, own_val and own_test, data of yours in COCO form.

examples:
  python benchmarks/paper_tables.py --table final --plan
  python benchmarks/paper_tables.py --table curves --workers 2 --hours 8
  python benchmarks/paper_tables.py --table final --only loss=focal-l1,retinanet-coco --only split=val
  python benchmarks/paper_tables.py --table 1 --detector retinanet --seeds 3 --show
"""

TABLES = ("1", "2", "3", "figure1", "curves", "recipes", "final", "ranks")
HERE = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--table", action="append", choices=TABLES, help="several, made in this order (default: all)")
    p.add_argument("--dataset", choices=("bccd", "own", "shapes"), default="bccd", help="default bccd")
    p.add_argument(
        "--detector",
        action="append",
        choices=("retinanet", "faster_rcnn", "deformable_detr"),
        help="several (default: all that the data set has a config for)",
    )
    p.add_argument("--iterations", type=int, default=1500, help="of a full training (default 1500, the configs')")
    p.add_argument("--seeds", type=int, help="of each cell (default 3; of the final comparison 5)")
    p.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FIELD=VALUE[,VALUE]",
        help="of the trainings those alone, such as loss=focal-l1 or seed=0,1; several",
    )
    p.add_argument("--workers", type=int, default=1, help="trainings at a time (default 1)")
    p.add_argument("--hours", type=float, help="begin nothing after these, and end trainings at their next checkpoint")
    p.add_argument("--plan", action="store_true", help="print what would be trained and how long it may take")
    p.add_argument("--show", action="store_true", help="write and print the tables of the rows that are there")
    p.add_argument("--db", type=Path, default=HERE / "results" / "trainings.db", help="the rows")
    p.add_argument(
        "--merge", type=Path, action="append", default=[], metavar="FILE", help="take over another file's rows; several"
    )
    p.add_argument("--report", type=Path, default=HERE / "results", metavar="FOLDER", help="of tables and pictures")
    p.add_argument(
        "--work", type=Path, default=Path("output/paper_tables"), metavar="FOLDER", help="of what is in training"
    )
    return p


def filters(given: Sequence[str], known: Sequence[str]) -> dict[str, set[str]]:
    """What --only asks for, by field.

    Raises:
        UserError: a field that trainings do not have.
    """
    from paramap_d2.errors import UserError

    found: dict[str, set[str]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or name not in known:
            raise UserError(f"--only {text}: must be FIELD=VALUE, with one of the fields {', '.join(known)}")
        found.setdefault(name, set()).update(values.split(","))
    return found


def is_wanted(training: Any, only: Mapping[str, set[str]]) -> bool:
    """Whether each field that --only names has one of its values; numbers however they are written."""
    return all(any(_same(getattr(training, name), text) for text in texts) for name, texts in only.items())


def unknown_values(trainings: Sequence[Any], only: Mapping[str, set[str]]) -> str:
    """What --only asks for that no training of a table has, and what they have; "" if there is nothing."""
    for name, texts in only.items() if trainings else ():
        values = dict.fromkeys(getattr(training, name) for training in trainings)
        for text in sorted(texts):
            if not any(_same(value, text) for value in values):
                return f"no training has {name}={text} (yet); there are {', '.join(map(str, values))}"
    return ""


def _same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


@dataclass
class Runner:
    """Trains what tables lack, each training in a process of its own.

    Args:
        rows: where they are kept.
        work: a folder each for those that have not ended.
        until: the time after which nothing is begun.
        on_row: is called after each.
    """

    rows: Any
    work: Path
    workers: int
    until: float
    on_row: Callable[[], None]

    def run(self, table: str, wanted: Callable[[Mapping], list]) -> list[str]:
        """
        Args:
            wanted: trainings that are missing, in order, by the rows that are there.

        Returns:
            a line for each training that failed or is trained by somebody else.
        """
        running: dict[subprocess.Popen, Any] = {}
        problems: dict[Any, str] = {}
        try:
            while True:
                busy = set(running.values())
                free = len(running) < self.workers and time.time() < self.until
                for training in wanted(self.rows.all()) if free else ():
                    if len(running) >= self.workers:
                        break
                    if training not in busy and training not in problems and self._has_loss(training, problems):
                        running[self._begin(training)] = training
                if not running:
                    return list(problems.values())
                time.sleep(0.5)
                for process in [process for process in running if process.poll() is not None]:
                    self._end(table, running.pop(process), process.returncode, problems)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()

    def _folder(self, training: Any) -> Path:
        return self.work / "trainings" / training.key()

    def _begin(self, training: Any) -> subprocess.Popen:
        from paramap_d2.files import write_whole
        from paramap_d2.search.executors.processors import processors

        print(f"training {training.describe()}", flush=True)
        folder = self._folder(training)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "training.json", json.dumps(asdict(training)).encode())
        threads = str(max(1, processors() // self.workers))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        command = [sys.executable, str(HERE / "paper_training.py"), str(folder), str(self.until)]
        with open(folder / "log.txt", "a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _end(self, table: str, training: Any, status: int, problems: dict[Any, str]) -> None:
        from paper_training import BUSY, UNFINISHED

        folder = self._folder(training)
        if status == 0:
            result = json.loads((folder / "result.json").read_text())
            self.rows.add(table, training, result)
            shutil.rmtree(folder)
            print(f"  {result['status']}, AP {result['figures']['AP']:.2f}: {training.describe()}", flush=True)
            self.on_row()
        elif status == BUSY:
            problems[training] = f"in training by another process: {training.describe()}"
        elif status == UNFINISHED:
            problems[training] = f"goes on another time: {training.describe()}"
        else:
            problems[training] = f"failed, see {folder / 'log.txt'}: {training.describe()}"

    def _has_loss(self, training: Any, problems: dict[Any, str]) -> bool:
        """Searches the loss where it is not there."""
        from paper_plans import search_of

        from paramap_d2.search.heartbeat import DONE
        from paramap_d2.search.life import read_life
        from paramap_d2.search.status import read_search

        path = training.loss_file
        if path is None or path.exists():
            return True
        folder = self.work / "searches" / path.stem
        command = search_of(path.stem).command(str(folder), self.workers)
        if (folder / "search.db").exists():
            command = ["evolve", "--output-dir", str(folder), "--resume", "--workers", str(self.workers)]
        if self.until < float("inf"):
            command[1:1] = ["--hours", f"{max(0.01, (self.until - time.time()) / 3600):.2f}"]
        print(f"searching {path.stem}: paramap {' '.join(command)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "paramap_d2", *command])
        # One that --hours has cut short ends well, too, and is not done.
        if done.returncode == 0 and read_life(folder, *read_search(folder)).state == DONE:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "best.json", path)
            return True
        problems[training] = f"its search has not ended ({folder}): {training.describe()}"
        return False


def print_plan(table: str, wanted: Sequence[Any], rows: Mapping, workers: int) -> float:
    """What a table lacks, with the hours that it may take; returns them."""
    from paper_plans import PROXY_ITERATIONS, expected_seconds, search_of

    hours = 0.0
    print(f"table {table}: {len(wanted)} trainings")
    searches = dict.fromkeys(t.loss_file for t in wanted if t.loss_file is not None and not t.loss_file.exists())
    for path in searches:
        search = search_of(path.stem)
        first = next(training for training in wanted if training.loss_file == path)
        seconds = expected_seconds(first, rows) / first.iterations * PROXY_ITERATIONS
        # Successive halving trains most proxies for a quarter or half of their iterations.
        hours += (last := search.evaluations * seconds / 2 / 3600)
        print(f"  {last:6.2f} h  search {path.stem}, {search.evaluations} proxies")
    for training in wanted:
        hours += (last := expected_seconds(training, rows) / 3600)
        print(f"  {last:6.2f} h  {training.describe()}")
    print(f"  {hours:6.1f} CPU hours, {hours / workers:.1f} h with {workers} free cores; what a choice by val leads to")
    print("           is known when it is made")
    return hours


def run(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of finally: no training is left behind
    warnings.filterwarnings("ignore", category=FutureWarning)
    from paper_plans import Plan, missing
    from paper_rows import CONFIGS, Rows, Training
    from paper_text import report

    from paramap_d2.data import check_datasets
    from paramap_d2.files import make_output_folder

    if not options.plan:
        make_output_folder(options.report)
    only = filters(options.only, [field.name for field in fields(Training)])
    rows = Rows(options.db)
    for other in options.merge:
        print(f"{rows.merge(other)} rows of {other} were new")
    until = time.time() + 3600 * options.hours if options.hours is not None else float("inf")
    problems: list[str] = []
    for table in options.table or TABLES:
        detectors = options.detector or [detector for dataset, detector in CONFIGS if dataset == options.dataset]
        seeds = options.seeds or (5 if table == "final" else 3)
        plan = Plan(options.dataset, detectors, options.iterations, seeds)

        def wanted(known: Mapping, table: str = table, plan: Plan = plan) -> list:
            found = missing(plan.parts(table, known), known)
            return [t for t in found if is_wanted(t, only)]

        def write(table: str = table, plan: Plan = plan) -> str:
            return report(table, plan, rows.all(), options.report)

        if options.plan:
            print_plan(table, wanted(rows.all()), rows.all(), options.workers)
            continue
        if unknown := unknown_values(missing(plan.parts(table, rows.all()), {}), only):
            print(f"table {table}: {unknown}", file=sys.stderr)
        if not options.show:
            # One line now, and not one for each training.
            names = dict.fromkeys(training.dataset for training in wanted(rows.all()))
            check_datasets([f"{name}_{split}" for name in names for split in ("train", "val", "test")])
            problems += Runner(rows, options.work, options.workers, until, write).run(table, wanted)
        print(write())
    for problem in dict.fromkeys(problems):
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    from paramap_d2.errors import exit_status

    sys.exit(exit_status(run))
