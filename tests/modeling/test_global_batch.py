"""Detectors under DistributedDataParallel that rank all processes' samples together get, with a part of the batch
each, the gradients of one process with the whole of it. One spawn serves all cases."""

import copy
import datetime
import os
import socket
import traceback

import detr
import pytest
import torch
from detectors import build, losses
from detectron2.utils.env import seed_all_rng
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

# Batch norm would tell a part from the whole by itself.
GROUP_NORM = ["MODEL.RESNETS.NORM", "GN"]

# Kind, loss, type of the weights (Detectron2's RPN takes no float64), how far apart the gradients may be.
CASES = [
    ("detr", "square", torch.float64, 1e-6),
    ("retinanet", "retinanet-coco", torch.float64, 1e-6),
    ("retinanet", "retinanet-coco", torch.bfloat16, 1e-2),  # mixed: float32 weights
    ("retinanet", "rank-sort", torch.float64, 1e-6),
    ("faster_rcnn", "fasterrcnn-coco", torch.float32, 1e-4),
    ("cascade_rcnn", "fasterrcnn-coco", torch.float32, 1e-4),
]


def detector(kind, loss, together):
    if kind == "detr":
        seed_all_rng(1)  # its backbone is made first
        return detr.detector(backbone=detr.backbone("FrozenBN"), param_ap={"loss": loss, "global_batch": together})
    return build(kind, *GROUP_NORM, "MODEL.PARAM_AP.LOSS", loss, "MODEL.PARAM_AP.GLOBAL_BATCH", together)


def gradients(model, inputs, mixed):
    """One vector of all."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        found, _ = losses(model, inputs)
    sum(found.values()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def check(rank, inputs):
    parts = inputs[:1], inputs[1:]
    for kind, loss, dtype, most in CASES:
        mixed = dtype == torch.bfloat16
        weights = torch.float32 if mixed else dtype
        model = detector(kind, loss, True).to(weights)
        got = gradients(DistributedDataParallel(model), copy.deepcopy(parts[rank]), mixed)
        if rank == 0:
            want = gradients(detector(kind, loss, False).to(weights), copy.deepcopy(inputs), mixed)
            distance = float((got - want).norm() / want.norm())
            assert distance < most, (kind, loss, dtype, distance)


def work(rank, port, inputs, results):
    torch.set_num_threads(1)
    try:
        address, patience = f"tcp://127.0.0.1:{port}", datetime.timedelta(seconds=300)
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=patience)
        check(rank, inputs)
        dist.destroy_process_group()
    except Exception:
        results.put(traceback.format_exc())
        os._exit(1)


@pytest.mark.slow
def test_the_averaged_gradient_is_that_of_the_whole_batch():
    inputs = [
        detr.image(96, 96, [[2, 3, 30, 40], [20, 10, 54, 60]], [0, 2], seed=1),
        detr.image(96, 96, [], [], seed=2),
        detr.image(96, 96, [[4, 24, 40, 60]], [1], seed=3),
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    children = [context.Process(target=work, args=(rank, port, inputs, results)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(400)
    stuck = [child for child in children if child.is_alive()]
    for child in stuck:
        child.kill()
    problems = []
    while not results.empty():
        problems.append(results.get())
    assert not problems, problems[0]
    assert not stuck and all(child.exitcode == 0 for child in children)
