"""A whole training step with this loss against the same detector's stock losses, and the losses' own part of it.

ResNet-50 FPN, random initial weights, COCO's 80 classes, on a CPU. Everything is measured in this one process, the
detectors taking turns, so that the ratios hold whatever the machine is busy with.

    python benchmarks/step.py                                  # RetinaNet and Faster R-CNN, as in benchmarks/README.md
    python benchmarks/step.py --detector retinanet --repeats 21
    python benchmarks/step.py --threads 1 --clock cpu          # on a machine that is busy with other things
    python benchmarks/step.py --size 256 --images 1 --repeats 3 --json step.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import paramap_d2.modeling  # noqa: F401
from paramap_d2.config import read_config
from paramap_d2.engine import Trainer

CONFIGS = Path(__file__).parents[1] / "projects" / "ParamAP" / "configs"
OUR_BOXES = ["MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)]
"""Lets the stock RPN propose the boxes that ours does. By its own weights the deltas of untrained layers make far
larger ones, and pooling costs as much as boxes are large."""
ALL_PROPOSALS = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1_000_000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0]
ALL_PROPOSALS += ["MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False]
"""Lets the stock ROI heads train, as ours do, on all proposals instead of 512 an image."""

DETECTORS = {
    "retinanet": {
        "this loss": ("coco_retinanet_R_50_FPN_param_ap.yaml", []),
        "focal + L1": ("coco_retinanet_R_50_FPN_focal_l1.yaml", []),
    },
    "faster_rcnn": {
        "this loss": ("coco_faster_rcnn_R_50_FPN_param_ap.yaml", []),
        "CE + L1": ("coco_faster_rcnn_R_50_FPN_ce_l1.yaml", OUR_BOXES),
        "this loss, 512 proposals": (
            "coco_faster_rcnn_R_50_FPN_param_ap.yaml",
            ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 512],
        ),
        "CE + L1, all proposals": ("coco_faster_rcnn_R_50_FPN_ce_l1.yaml", OUR_BOXES + ALL_PROPOSALS),
    },
}
"""For each detector its contenders: config and options. This loss comes first, the baseline second; the last one trains
on the same candidate boxes as this loss."""


class Step:
    """One training step of a detector, and the calls of its losses and of its making of targets."""

    def __init__(self, config: str, options: list, args: argparse.Namespace):
        # A rate of zero: every step does all its work and finds the detector as the one before did.
        fixed = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.0]
        cfg = read_config(CONFIGS / config, [*fixed, *options])
        torch.manual_seed(0)
        self.model = Trainer.build_model(cfg).train()
        self.optimizer = Trainer.build_optimizer(cfg, self.model)
        self.inputs = draw(args.images, args.size, args.boxes, len(cfg.MODEL.PIXEL_MEAN))

    def __call__(self) -> dict[str, Tensor]:
        torch.manual_seed(1)  # of what stock heads sample
        losses = self.model(self.inputs)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        return losses

    def parts(self) -> dict[str, Callable[[], Any]]:
        """What can be run again of one step, by name: ``targets`` and ``loss`` (forward, and backward to the
        predictions) of each head, the loss also ``late``."""
        if isinstance(self.model, RetinaNet):
            calls = [("targets", self.model, "label_anchors"), ("loss", self.model, "losses")]
        else:
            rpn, roi = self.model.proposal_generator, self.model.roi_heads
            calls = [("RPN targets", rpn, "label_and_sample_anchors"), ("RPN loss", rpn, "losses")]
            calls += [("ROI targets", roi, "label_and_sample_proposals"), ("ROI loss", roi.box_predictor, "losses")]
        parts: dict[str, Callable[[], Any]] = {}

        def record(name: str, module: nn.Module, method: str) -> None:
            original = getattr(module, method)

            def recording(*given: Any) -> Any:
                if method == "losses":
                    parts[name] = partial(loss_and_gradient, original, leaves(given))
                    parts[f"{name}, late"] = partial(loss_and_gradient, original, leaves(late(module, given)))
                else:
                    parts[name] = partial(original, *given)
                return original(*given)

            setattr(module, method, recording)

        for call in calls:
            record(*call)
        self()
        for _, module, method in calls:
            delattr(module, method)  # the class's own again
        return parts


def draw(images: int, size: int, boxes: int, channels: int) -> list[dict]:
    """Noise, with boxes of an eighth to a half of its size at random places, of random classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(images):
        sides = (torch.rand(boxes, 2, generator=generator) * 3 / 8 + 1 / 8) * size
        corner = torch.rand(boxes, 2, generator=generator) * (size - sides)
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + sides], dim=1))
        instances.gt_classes = torch.randint(80, (boxes,), generator=generator)
        pixels = torch.randint(256, (channels, size, size), generator=generator, dtype=torch.uint8)
        inputs.append({"image": pixels, "height": size, "width": size, "instances": instances})
    return inputs


def leaves(given: Any) -> Any:
    """The same arguments, cut off from the graph where they are predictions; their gradients are asked for."""
    if isinstance(given, (list, tuple)):
        return type(given)(leaves(item) for item in given)
    if isinstance(given, Tensor) and given.requires_grad:
        return given.detach().requires_grad_()
    return given


def late(module: nn.Module, given: tuple) -> tuple:
    """The arguments of ``module.losses`` with 95 % of the background boxes' scores 8 lower, as later in training."""
    generator = torch.Generator().manual_seed(0)
    if len(given) == 2:  # of a box predictor: (scores, deltas), proposals
        (scores, deltas), proposals = given
        labels = torch.cat([p.gt_classes for p in proposals])
        lower = (labels == module.num_classes) & (torch.rand(labels.shape, generator=generator) < 0.95)
        return (scores - 8 * lower[:, None], deltas), proposals
    anchors, scores, labels, *others = given
    labels = torch.stack(labels)
    background = module.num_classes if isinstance(module, RetinaNet) else 0
    lower = (labels == background) & (torch.rand(labels.shape, generator=generator) < 0.95)
    lower = lower.split([level.shape[1] for level in scores], dim=1)
    lowered = [
        level - 8 * low.view(*low.shape, *[1] * (level.dim() - 2)) for level, low in zip(scores, lower, strict=True)
    ]
    return anchors, lowered, labels.unbind(), *others


def loss_and_gradient(losses: Callable[..., dict[str, Tensor]], given: tuple) -> dict[str, Tensor]:
    values = losses(*given)
    sum(values.values()).backward()
    forget_gradients(given)
    return values


def forget_gradients(given: Any) -> None:
    if isinstance(given, (list, tuple)):
        for item in given:
            forget_gradients(item)
    elif isinstance(given, Tensor):
        given.grad = None


def seconds(runs: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Times of each; they take turns, so that a busy spell of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat:  # the first round warms up
                times[name].append(clock() - start)
    return times


def compare(detector: str, args: argparse.Namespace) -> dict:
    """Milliseconds of the steps and of their parts, shares and ratios."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    steps = {name: Step(*contender, args) for name, contender in DETECTORS[detector].items()}
    ours, baseline, *_ = steps
    same_boxes = list(steps)[-1]
    parts = {(name, part): run for name, step in steps.items() for part, run in step.parts().items()}
    sampled = {name: sum(map(len, run())) for (name, part), run in parts.items() if part == "ROI targets"}
    rows = {}
    whole = seconds(steps, args.repeats, clock)
    part_times = seconds(parts, max(args.repeats, 11), clock)
    for name in steps:
        step = statistics.median(whole[name])
        taken = {part: statistics.median(times) for (of, part), times in part_times.items() if of == name}
        loss = sum(value for part, value in taken.items() if part.endswith("loss"))
        later = sum(value for part, value in taken.items() if part.endswith("late"))
        ratios = [mine / other for mine, other in zip(whole[name], whole[baseline], strict=True)]
        rows[name] = {
            "step_ms": step * 1e3,
            "parts_ms": {part: value * 1e3 for part, value in taken.items()},
            "loss_ms": loss * 1e3,
            "late_loss_ms": later * 1e3,
            "share": loss / step,
            "late_share": later / (step - loss + later),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "proposals": sampled.get(name),
        }
    # Over the same boxes two steps differ in targets and loss alone: a ratio without the noise of the rest.
    differ = [sum(v for p, v in rows[n]["parts_ms"].items() if not p.endswith("late")) for n in (ours, same_boxes)]
    by_parts = 1 + (differ[0] - differ[1]) / rows[same_boxes]["step_ms"]
    return {"contenders": rows, "ratio_by_parts": by_parts, "ratio_by_parts_to": same_boxes}


def show(detector: str, result: dict) -> None:
    rows = result["contenders"]
    baseline = list(rows)[1]
    print(f"\n{detector}: milliseconds; ratio to {baseline}: median (least to most)")
    print(f"{'':24} {'step':>8} {'loss':>7} {'share':>7} {'late':>7} {'share':>7}   ratio of steps")
    for name, row in rows.items():
        low, high = row["ratio_range"]
        print(
            f"{name:24} {row['step_ms']:8.1f} {row['loss_ms']:7.2f} {row['share']:7.2%} {row['late_loss_ms']:7.2f} "
            f"{row['late_share']:7.2%}   {row['ratio']:.3f} ({low:.3f} to {high:.3f})"
        )
    for name, row in rows.items():
        told = [f"{row['proposals']} proposals"] if row["proposals"] else []
        print(f"  {name}: " + "; ".join([*told, *(f"{part} {value:.2f}" for part, value in row["parts_ms"].items())]))
    print(
        f"this loss's step to that of {result['ratio_by_parts_to']}, differing in targets and loss alone: "
        f"{result['ratio_by_parts']:.4f}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", choices=list(DETECTORS), action="append", help="this alone (default: both)")
    parser.add_argument("--size", type=int, default=512, help="pixels of an image's sides (default: 512)")
    parser.add_argument("--images", type=int, default=2, help="in a batch (default: 2)")
    parser.add_argument("--boxes", type=int, default=8, help="objects in an image (default: 8)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument(
        "--repeats", type=int, default=11, help="timed steps of each, of which the median (default: 11)"
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the processor's time, for a machine busy with other things; needs --threads 1 (default: wall)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    args = parser.parse_args(argv)
    for name, least in {"size": 64, "images": 1, "boxes": 1, "threads": 1, "repeats": 1}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, not {getattr(args, name)}")
    if args.clock == "cpu" and args.threads > 1:
        parser.error("--clock cpu counts waiting threads as busy: add --threads 1")
    if args.json is not None and not args.json.resolve().parent.is_dir():
        parser.error(f"the folder of {args.json} does not exist")
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {args.threads} threads, float32, {args.clock} clock; medians of {args.repeats} "
        f"steps; {args.images} images of {args.size} pixels, {args.boxes} objects each"
    )
    results = {}
    with EventStorage():
        for detector in args.detector or DETECTORS:
            results[detector] = compare(detector, args)
            show(detector, results[detector])
            sys.stdout.flush()
    if args.json:
        settings = {name: getattr(args, name) for name in ("size", "images", "boxes", "threads", "repeats", "clock")}
        part = args.json.with_name(args.json.name + ".part")
        part.write_text(json.dumps({"torch": torch.__version__, **settings, "detectors": results}, indent=1) + "\n")
        os.replace(part, args.json)


if __name__ == "__main__":
    sys.exit(main())
