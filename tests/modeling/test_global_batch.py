"""Detectors under DistributedDataParallel that rank all processes' samples together get, with a part of the batch
each, the gradients of one process with the whole of it. One spawn serves all cases."""

import copy

import detr
import pytest
import torch
from detectors import build, losses
from detectron2.utils.env import seed_all_rng
from ranks import check_in_ranks
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


@pytest.mark.slow
def test_the_averaged_gradient_is_that_of_the_whole_batch():
    inputs = [
        detr.image(96, 96, [[2, 3, 30, 40], [20, 10, 54, 60]], [0, 2], seed=1),
        detr.image(96, 96, [], [], seed=2),
        detr.image(96, 96, [[4, 24, 40, 60]], [1], seed=3),
    ]
    check_in_ranks(check, 2, inputs)
