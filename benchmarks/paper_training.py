#!/usr/bin/env python
"""One training of the paper's tables, in a process of its own, which paper_tables.py begins.

FOLDER holds training.json, what to train. It gets a checkpoint on the way, from which a next call goes on to the same
figures, and result.json at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

BUSY, UNFINISHED = 75, 76
"""Exit statuses: another process trains in this folder; the time is over, and a checkpoint is left."""

POINTS, APART = 10, 50
"""Of the AP curve: their number, and iterations that are at least between two."""

CHECKPOINT_EVERY = 50

DRAWS = 500
"""Of the test images, for the interval over them."""


class TimeIsOver(Exception):
    """The training is to go on another time."""


def train(training: Any, folder: Path, until: float = math.inf) -> dict[str, Any]:
    """Train, with the AP on ``val`` at some points on the way, and evaluate on the training's split.

    Args:
        training: a :class:`paper_rows.Training`.
        until: the time, as ``time.time()``, after which the next checkpoint ends it.

    Returns:
        see :meth:`paper_rows.Rows.add`. A loss that diverges is a result.

    Raises:
        TimeIsOver: it was cut off; the next call goes on.
    """
    import torch
    from detectron2.engine import HookBase, hooks
    from detectron2.evaluation import inference_on_dataset
    from detectron2.utils.env import seed_all_rng

    from paramap_d2.config import check_config
    from paramap_d2.data import build_evaluator
    from paramap_d2.data.detections import DetectionCollector
    from paramap_d2.data.digest import digest
    from paramap_d2.engine import Trainer
    from paramap_d2.engine.cpu_speed import SameSizeBatches, fast_training
    from paramap_d2.engine.trained_loss import TrainedLoss
    from paramap_d2.search.proxies.checkpoint import Checkpoint
    from paramap_d2.search.proxies.proxy import unnoticed
    from paramap_d2.search.proxies.versions import machine, versions

    class TableTrainer(Trainer):
        def build_hooks(self) -> list[HookBase]:
            loss = self.cfg.MODEL.PARAM_AP
            return [TrainedLoss(folder, loss.END_LOSS, loss.END_LOSS_FROM), hooks.LRScheduler(), Watch()]

        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str, *args: Any, **options: Any) -> Any:
            return build_evaluator(dataset_name, voc=False)

        @classmethod
        def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
            return SameSizeBatches(super().build_test_loader(cfg, dataset_name), cfg.SOLVER.IMS_PER_BATCH)

    cfg = training.config()
    cfg.OUTPUT_DIR, cfg.MODEL.PARAM_AP.CALIBRATE_ON = str(folder), ""
    check_config(cfg)
    cfg.freeze()
    judged = cfg.clone()
    judged.defrost()
    judged.DATASETS.TEST = (f"{training.dataset}_{training.split}",)
    number = max(1, min(POINTS, cfg.SOLVER.MAX_ITER // APART))
    points = {math.ceil(cfg.SOLVER.MAX_ITER * point / number) for point in range(1, number + 1)}
    checkpoint = Checkpoint(folder / "checkpoint.pth", CHECKPOINT_EVERY, training.key())
    names = [f"{training.dataset}_train", *cfg.DATASETS.TEST, *judged.DATASETS.TEST]
    result = {"status": "finished", "error": "", "figures": {}, "curve": [], "seconds": 0.0, "cpu_seconds": 0.0}
    result.update(data=digest(dict.fromkeys(names)), versions=versions(), resampled=[])

    def figures(cfg: Any) -> dict[str, float]:
        with unnoticed():
            found = trainer.test(cfg, trainer.model)["bbox"]
        return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}  # NaN: found nothing

    def resampled() -> list[float]:
        """The AP of draws of the judged images."""
        (name,) = judged.DATASETS.TEST
        loader = trainer.build_test_loader(judged, name)
        found = inference_on_dataset(trainer.model, loader, DetectionCollector(name))
        return found.resampled_average_precision(DRAWS).round(3).tolist()

    class Clock:
        """Adds up the seconds of all the calls that a training takes."""

        def __init__(self):
            self.now = time.perf_counter(), time.process_time()

        def add(self) -> None:
            before, self.now = self.now, (time.perf_counter(), time.process_time())
            result["seconds"] += self.now[0] - before[0]
            result["cpu_seconds"] += self.now[1] - before[1]

    class Watch(HookBase):
        def after_step(self) -> None:
            done = self.trainer.iter + 1
            if done % 20 == 0:
                loss = self.trainer.storage.latest()["total_loss"][0]
                logging.info("iteration %d of %d, loss %.4f", done, self.trainer.max_iter, loss)
            if done in points:
                found = figures(judged if done == self.trainer.max_iter and training.split == "val" else cfg)
                result["curve"].append([done, found["AP"]])
                logging.info("iteration %d, AP %.2f", done, found["AP"])
                if done == self.trainer.max_iter and training.split == "val":
                    result["figures"] = found
            if done % checkpoint.every == 0 and done < self.trainer.max_iter:
                clock.add()
                checkpoint.save(self.trainer, {key: result[key] for key in ("curve", "seconds", "cpu_seconds")})
                if time.time() > until:
                    raise TimeIsOver

    clock = Clock()
    with fast_training() if cfg.MODEL.PARAM_AP.FAST_CPU else contextlib.nullcontext():
        seed_all_rng(training.seed)
        trainer = TableTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.start_iter, kept = checkpoint.load(trainer, cfg.DATALOADER.NUM_WORKERS == 0)
        result.update(kept)
        try:
            trainer.train()
            if not all(torch.isfinite(p).all() for p in trainer.model.parameters()):
                raise FloatingPointError("weights are not finite")
            result["figures"] = result["figures"] or figures(judged)
            if training.split == "test":
                result["resampled"] = resampled()
        except FloatingPointError as error:
            result.update(status="diverged", error=str(error).splitlines()[0], figures={"AP": 0.0})
    clock.add()
    result["versions"]["machine"] = machine()
    return result


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", metavar="FOLDER", type=Path, help="with training.json")
    p.add_argument("until", metavar="UNTIL", type=float, nargs="?", default=math.inf, help="Unix time to end by")
    return p


def main(folder: Path, until: float) -> int:
    from paper_rows import Training

    from paramap_d2.files import write_whole

    training = Training(**json.loads((folder / "training.json").read_text()))
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return BUSY
        if not (folder / "result.json").exists():
            try:
                result = train(training, folder, until)
            except TimeIsOver:
                return UNFINISHED
            write_whole(folder / "result.json", json.dumps(result).encode())
            (folder / "checkpoint.pth").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    options = parser().parse_args()
    if not (options.folder / "training.json").is_file():
        sys.exit(f"error: {options.folder}/training.json is not there; paper_tables.py makes such folders")
    sys.exit(main(options.folder, options.until))
