"""Speed and memory of the loss, against focal loss with L1 or GIoU, one sort of the scores and other ways to rank.

Prints a table; everything in it is measured in this one process, so its ratios hold whatever the machine is busy with.

    python benchmarks/loss.py                                  # the sizes of benchmarks/README.md
    python benchmarks/loss.py --samples 300000 --positives 800
    python benchmarks/loss.py --plot benchmarks/loss_scaling.png --json loss.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter; read when torch is imported

import torch
from other_losses import (
    Batch,
    alrp_loss,
    ap_loss,
    focal_and_giou,
    focal_and_l1,
    our_ap_loss,
    our_rank_sort,
    plain_pairwise,
    rank_sort_loss,
)
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from paramap_d2.losses import FUNCTION_NAMES, SUBSTITUTIONS, ParameterizedAPLoss, load_loss

HANDCRAFTED = {
    name: ParameterizedAPLoss(dict.fromkeys(FUNCTION_NAMES, function()))
    for name, function in SUBSTITUTIONS.items()
    if name != "linear"  # costs what the searched functions cost
}
"""Table 3's substitutions, one for all five functions: quadratic in pieces, or pair by pair."""

SIZES = (20_000, 100), (100_000, 500), (400_000, 1_000), (2_000_000, 5_000)


def draw(samples: int, positives: int, situation: str, device: str) -> Batch:
    """Normal scores. ``early``: every sample in some positive's window; ``late``: 95 % of the negatives lie below
    all windows."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(samples, generator=generator) / 2
    chosen = torch.randperm(samples, generator=generator)[:positives]
    targets = torch.zeros(samples, dtype=torch.int64)
    targets[chosen] = 1
    if situation == "late":
        scores[(torch.rand(samples, generator=generator) < 0.95) & (targets == 0)] -= 8
    elif situation == "early":
        # The outermost positives' windows must reach the outermost samples.
        scores.clamp_(scores[chosen].min() - 0.999, scores[chosen].max() + 0.999)
    quality = torch.zeros(samples)
    quality[chosen] = torch.rand(positives, generator=generator)
    given = quality[chosen]
    deltas, target_deltas, low, target_low = torch.randn(4, positives, 4, generator=generator).div(8)
    boxes, target_boxes = (torch.cat([x[:, :2], x[:, :2] + x[:, 2:].exp()], dim=1) for x in (low, target_low))
    drawn = scores, quality, targets, chosen, given, targets.float(), deltas, target_deltas, boxes, target_boxes
    batch = Batch(*(x.to(device) for x in drawn))
    for leaf in (batch.scores, batch.quality, batch.positive_quality, batch.deltas, batch.boxes):
        leaf.requires_grad_()
    return batch


# What is compared. Each runs forward and backward once.


def with_forward(loss_fn: ParameterizedAPLoss, batch: Batch) -> None:
    """This loss from tensors over all samples."""
    batch.scores.grad = batch.quality.grad = None
    loss_fn(batch.scores, batch.quality, batch.targets).backward()


def with_terms(loss_fn: ParameterizedAPLoss, batch: Batch) -> None:
    """This loss from positives by index, as the heads call it."""
    batch.scores.grad = batch.positive_quality.grad = None
    terms = loss_fn.terms(batch.scores, batch.positives, batch.positive_quality)
    (terms.ranking + terms.localization).backward()


def with_handcrafted(name: str, _: ParameterizedAPLoss, batch: Batch) -> None:
    with_terms(HANDCRAFTED[name], batch)


def one_sort(_: ParameterizedAPLoss, batch: Batch) -> None:
    torch.sort(batch.scores.detach())


CONTENDERS = {
    "focal + L1": focal_and_l1,
    "focal + GIoU": focal_and_giou,
    "one torch.sort": one_sort,
    "this loss, forward()": with_forward,
    "this loss, terms()": with_terms,
    **{f"{name}, terms()": partial(with_handcrafted, name) for name in HANDCRAFTED},
    "AP Loss, here": our_ap_loss,
    "RS Loss, here": our_rank_sort,
    "plain pairwise form": plain_pairwise,
    "AP Loss, loop": ap_loss,
    "RS Loss, loop": rank_sort_loss,
    "aLRP Loss, loop": alrp_loss,
}
QUADRATIC = (
    "sigmoid, terms()",
    "sqrt, terms()",
    "plain pairwise form",
    "AP Loss, loop",
    "RS Loss, loop",
    "aLRP Loss, loop",
)


# Measuring


def seconds(runs: dict[str, Callable[[], object]], repeats: int, args: argparse.Namespace) -> dict[str, float]:
    """Median time of each; they take turns, so that a busy spell of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            synchronize(args.device)
            start = clock()
            run()
            synchronize(args.device)
            if repeat or repeats == 1:  # the first round warms up
                times[name].append(clock() - start)
        if repeats == 1:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    """Most memory that torch held at any moment of the run, beyond what it held before; gradients included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    changes = sorted(_allocations(profiler.profiler.kineto_results.experimental_event_tree()))
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return peak


def _allocations(events: list) -> Iterator[tuple[int, int]]:
    """(time, bytes) of every allocation, negative when given back, in a tree of profiler events."""
    stack = list(events)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size


def compare(samples: int, positives: int, situation: str, args: argparse.Namespace) -> list[dict]:
    batch = draw(samples, positives, situation, args.device)
    loss_fn = ParameterizedAPLoss(load_loss("retinanet-coco")["dense"].functions)
    runs = {name: partial(run, loss_fn, batch) for name, run in CONTENDERS.items()}
    times = seconds({name: run for name, run in runs.items() if name not in QUADRATIC}, args.repeats, args)
    # What costs N·P pairs takes a minute from some 10^8 pairs on.
    slow = QUADRATIC if samples * positives <= 10**8 and not args.without_pairs else ()
    for name in slow:
        times |= seconds({name: runs[name]}, 1, args)
    rows = []
    for name, value in times.items():
        batch.scores.grad = batch.quality.grad = batch.positive_quality.grad = None
        # A profile of a loop over the positives would itself fill the memory.
        peak = None
        if not name.endswith("loop"):
            peak = peak_bytes(runs[name], args.device)
        rows.append(
            {
                "situation": situation,
                "samples": samples,
                "positives": positives,
                "what": name,
                "milliseconds": value * 1e3,
                "times_focal_l1": value / times["focal + L1"],
                "sorts": value / times["one torch.sort"],
                "times_forward": value / times["this loss, forward()"],
                "peak_bytes": peak,
                "bytes_a_sample": None if peak is None else peak / samples,
            }
        )
    return rows


def threads_over_one(samples: int, positives: int, situation: str, args: argparse.Namespace) -> float:
    """Time of ``terms()`` on the given threads over that on one. These two alone take turns: after others, threads that
    still wait for more to share would be in the way."""
    batch = draw(samples, positives, situation, args.device)
    loss_fn = ParameterizedAPLoss(load_loss("retinanet-coco")["dense"].functions)

    def on(threads: int) -> None:
        torch.set_num_threads(threads)
        with_terms(loss_fn, batch)

    times = seconds({str(threads): partial(on, threads) for threads in (1, args.threads)}, 4 * args.repeats, args)
    return times[str(args.threads)] / times["1"]


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(f"\nN = {first['samples']:,}, P = {first['positives']:,}, {first['situation']}")
    print(
        f"{'forward + backward':22} {'ms':>10} {'x focal + L1':>13} {'sorts':>8} {'x this loss':>12}"
        f" {'peak MB':>8} {'B/sample':>9}"
    )
    for row in rows:
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:8.1f} {row['bytes_a_sample']:9.1f}"
        print(
            f"{row['what']:22} {row['milliseconds']:10.2f} {row['times_focal_l1']:13.2f}"
            f" {row['sorts']:8.2f} {row['times_forward']:12.2f} {memory}",
            flush=True,
        )


# Growth


def growth(args: argparse.Namespace) -> list[dict]:
    """Times over N at fixed P, and over P at fixed N."""
    largest = 5 if args.quick else 7
    fixed_n = 10 ** (largest - 1)
    points = [("N", round(10 ** (e / 2)), 500) for e in range(8, 2 * largest + 1)]
    points += [("P", fixed_n, round(10 ** (e / 2))) for e in range(2, 9)]
    loss_fn = ParameterizedAPLoss(load_loss("retinanet-coco")["dense"].functions)
    rows = []
    for axis, samples, positives in points:
        batch = draw(samples, positives, "early", args.device)
        runs = {
            name: partial(CONTENDERS[name], loss_fn, batch)
            for name in ("focal + L1", "one torch.sort", "this loss, terms()")
        }
        times = seconds(runs, 3, args)
        if samples * positives <= 10**8:
            times |= seconds({"plain pairwise form": partial(plain_pairwise, loss_fn, batch)}, 1, args)
        rows += [
            {"axis": axis, "samples": samples, "positives": positives, "what": name, "milliseconds": value * 1e3}
            for name, value in times.items()
        ]
        told = ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in times.items())
        print(f"N = {samples:,}, P = {positives:,}: {told}", flush=True)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for panel, axis, key, fixed in zip(panels, "NP", ("samples", "positives"), ("positives", "samples"), strict=True):
        chosen = [row for row in rows if row["axis"] == axis]
        for name in dict.fromkeys(row["what"] for row in chosen):
            line = [row for row in chosen if row["what"] == name]
            panel.loglog([r[key] for r in line], [r["milliseconds"] for r in line], "o-", markersize=4, label=name)
        panel.set_xlabel(f"{key}, {chosen[0][fixed]:,} {fixed}")
        panel.grid(True, which="major", alpha=0.3)
    panels[0].set_ylabel("forward + backward, ms")
    panels[0].legend()
    figure.tight_layout()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format=path.suffix.lstrip(".") or "png", dpi=110)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=_count, metavar="N", help="with --positives, this size alone")
    parser.add_argument("--positives", type=_count, metavar="P")
    parser.add_argument("--threads", type=_count, default=2, help="of torch on a CPU (default: 2)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=_count, default=11, help="timed runs, of which the median (default: 11)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the processor's time, for a machine busy with other things; needs --threads 1 (default: wall)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also measure growth in N and P, and draw it here")
    parser.add_argument("--without-pairs", action="store_true", help="leave out what costs N·P")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    if (args.samples is None) != (args.positives is None):
        parser.error("--samples and --positives belong together: give both")
    if args.samples is not None and args.positives > args.samples:
        parser.error(f"--positives {args.positives} is more than --samples {args.samples}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; take --device cpu")
    if args.clock == "cpu" and (args.threads > 1 or args.device != "cpu"):
        parser.error("--clock cpu counts waiting threads as busy: add --threads 1 --device cpu")
    for path in (args.json, args.plot):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"the folder of {path} does not exist")
    torch.set_num_threads(args.threads)

    sizes = SIZES
    if args.quick:
        sizes = ((20_000, 100),)
    if args.samples is not None:
        sizes = ((args.samples, args.positives),)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"torch {torch.__version__}, {device}, float32, {args.clock} clock; medians of {args.repeats}")
    rows = []
    for samples, positives in sizes:
        for situation in ("early", "late"):
            rows += (table := compare(samples, positives, situation, args))
            show(table)
            if args.threads > 1 and args.device == "cpu":
                ratio = threads_over_one(samples, positives, situation, args)
                table[0]["terms_on_threads_over_one"] = ratio
                print(f"terms() on {args.threads} threads over one: {ratio:.2f}")
    print()
    grown = growth(args) if args.plot else []
    if args.plot:
        plot(grown, args.plot)
    if args.json:
        content = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": device,
            "clock": args.clock,
            "table": rows,
            "growth": grown,
        }
        part = args.json.with_name(args.json.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(part, args.json)


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
