#!/usr/bin/env python
"""Whether calibrated scores hold on images that nothing was fitted to.

Trains small detectors from scratch (a training that OUT already holds is not done again), calibrates each on the `val`
split of its data, and judges it on `test`, as trained and calibrated. Prints the tables of docs/scores.md, and the bars
that are missed; its exit status is 1 if there are any.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference

from paramap_d2.config import read_config
from paramap_d2.data.detections import DetectionCollector
from paramap_d2.data.reliability import draw_reliability, score_figures
from paramap_d2.engine import Trainer
from paramap_d2.engine.calibration import calibrate, fast_threshold
from paramap_d2.modeling.calibration import all_detections, folded, score_layer

ROOT = Path(__file__).resolve().parents[1]
DATA = ("shapes", "bccd")
BASELINE = "RetinaNet, focal + L1"
WEAK = 0.65
"""Of a detector whose best F1 is lower, the best threshold lies near half of that, calibrated or not."""


LEAST = 0.005
"""The threshold whose saving is shown beside 0.05's."""


@dataclass(frozen=True)
class Run:
    detector: str
    config: str
    iterations: int
    opts: tuple[str, ...] = ()


RUNS = (
    Run(BASELINE, "retinanet_R_18_FPN", 300, ("MODEL.META_ARCHITECTURE", "RetinaNet")),
    Run("RetinaNet", "retinanet_R_18_FPN", 300),
    Run("Faster R-CNN", "faster_rcnn_R_18_FPN", 300),
    Run("Deformable DETR", "deformable_detr_R_18", 400),
)


def folder_of(out: Path, data: str, run: Run, seed: int) -> Path:
    name = "focal" if run.detector == BASELINE else run.config.partition("_R_")[0]
    return out / f"{data}_{name}_{seed}"


def train(config: Path, opts: list[str], folder: Path) -> None:
    if (folder / "model_final.pth").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / "projects/ParamAP/train_net.py", "--num-gpus", "0", "--config-file", config]
    with open(folder / "output.txt", "w") as output:
        subprocess.run([*command, *opts], check=True, stdout=output, stderr=subprocess.STDOUT)


def judge(data: str, run: Run, seed: int, out: Path) -> dict:
    """Figures on `test`, as trained and calibrated on `val`."""
    config = ROOT / f"projects/ParamAP/configs/{data}_{run.config}.yaml"
    folder = folder_of(out, data, run, seed)
    opts = [
        *run.opts,
        "SOLVER.MAX_ITER",
        str(run.iterations),
        "SEED",
        str(seed),
        "MODEL.PARAM_AP.CALIBRATE_ON",
        "",
        "OUTPUT_DIR",
        str(folder),
    ]
    train(config, opts, folder)
    cfg = read_config(config, opts)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
    calibrated = calibrate(model, Trainer.build_calibration_loader(cfg, f"{data}_val"), f"{data}_val")

    def detections():
        loader = Trainer.build_calibration_loader(cfg, f"{data}_test")
        with all_detections(model):
            return inference_on_dataset(model, loader, DetectionCollector(f"{data}_test"))

    before = detections()
    with folded(model, calibrated.calibration):
        after = detections()
        left = shares_left(model, Trainer.build_calibration_loader(cfg, f"{data}_test"), (LEAST, 0.05))
    draw_reliability({"as trained": before, "calibrated": after}, folder / "reliability_test.png")
    return {
        "before": score_figures(before),
        "after": score_figures(after),
        "threshold": fast_threshold(after),
        "left": left,
    }


def shares_left(model: torch.nn.Module, loader: Iterable, thresholds: Sequence[float]) -> list[float]:
    """The shares of all scores, of every place and class before suppression, that are above thresholds."""
    layer, above, count = score_layer(model), [0] * len(thresholds), 0

    def look(module, inputs, output):
        nonlocal count
        scores = layer.logits(output).sigmoid()
        count += scores.numel()
        for i, threshold in enumerate(thresholds):
            above[i] += int((scores > threshold).sum())

    handle = layer.layer.register_forward_hook(look)
    model.eval()
    with torch.no_grad():
        for inputs in loader:
            model(inputs)
    handle.remove()
    return [n / count for n in above]


def missed(name: str, figures: dict, baseline: dict) -> list[str]:
    """The bars that a detector misses, in words."""
    before, after = figures["before"], figures["after"]
    bars = [
        (abs(after["AP"] - before["AP"]) <= 1e-4, f"AP changes from {before['AP']} to {after['AP']}"),
        (
            after["best"]["f1"] < WEAK or after["best"]["f1"] - after["at"]["f1"] <= 0.05,
            f"F1 {after['at']['f1']:.3f} at 0.5, {after['best']['f1']:.3f} at best",
        ),
        (after["laece0"] <= before["laece0"] / 2, f"LaECE0 {after['laece0']:.4f}, before {before['laece0']:.4f}"),
        (
            after["laece0"] <= baseline["after"]["laece0"],
            f"LaECE0 {after['laece0']:.4f}, of focal + L1 {baseline['after']['laece0']:.4f}",
        ),
    ]
    return [f"{name}: {words}" for holds, words in bars if not holds]


def table(data: str, found: dict[str, dict]) -> None:
    columns = [f"`{data}_test`", "AP", "best F1", "F1 at 0.5", "LaECE0", "D-ECE above 0.1"]
    columns += ["costs at most 0.1 AP", "0.05 costs", f"left at {LEAST}, 0.05"]
    print(f"\n| {' | '.join(columns)} |")
    print("| --- | ---: | ---: | --- | --- | --- | ---: | ---: | ---: |")
    for detector, figures in found.items():
        b, a, t = figures["before"], figures["after"], figures["threshold"]
        print(
            f"| {detector} | {a['AP']:.1f} | {a['best']['f1']:.3f} | {b['at']['f1']:.3f} → {a['at']['f1']:.3f} "
            f"| {b['laece0']:.4f} → {a['laece0']:.4f} | {b['dece'] or 0:.3f} → {a['dece'] or 0:.3f} "
            f"| {t['largest']:g} | {t['0.05 loses']:.2f} "
            f"| {', '.join(f'{100 * share:.1f} %' for share in figures['left'])} |"
        )


def time_of_suppression(proposals: int = 1000, classes: int = 80, repeats: int = 5) -> None:
    """Milliseconds of one thread for the detections of an image, of ROI heads with COCO's classes."""
    generator = torch.Generator().manual_seed(0)
    corner = 1000 * torch.rand(proposals, classes, 2, generator=generator)
    boxes = torch.cat([corner, corner + 20 + 200 * torch.rand(proposals, classes, 2, generator=generator)], -1)
    # A hundredth of all scores is drawn from 0 to 1, the rest next to nothing, much as calibrated scores have it.
    scores = 1e-3 * torch.rand(proposals, classes + 1, generator=generator)
    likely = torch.rand(scores.shape, generator=generator) < 0.01
    scores = torch.where(likely, torch.rand(scores.shape, generator=generator), scores)
    for threshold in (0.0, LEAST, 0.05):
        times = []
        for _ in range(repeats):
            start = time.process_time()
            fast_rcnn_inference([boxes.flatten(1)], [scores], [(1200, 1200)], threshold, 0.5, 100)
            times.append(1000 * (time.process_time() - start))
        kept = int((scores[:, :-1] > threshold).sum())
        print(f"threshold {threshold:g}: {kept} boxes, {sorted(times)[repeats // 2]:.0f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("output/calibration"), metavar="OUT")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    failures = []
    for data in options.data:
        found = {run.detector: judge(data, run, options.seed, options.output_dir) for run in RUNS}
        table(data, found)
        for detector, figures in found.items():
            if detector != BASELINE:
                failures += missed(f"{detector} on {data}", figures, found[BASELINE])
    print()
    time_of_suppression()
    print("\nbars missed: " + ("none" if not failures else ""), *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
