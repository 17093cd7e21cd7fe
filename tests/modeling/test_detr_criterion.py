"""The criteria of Deformable DETR: the loss of every decoder layer on its own matching."""

import json
import math

import numpy as np
import pytest
import reference
import torch
from detectors import losses, without_objects
from detr import detector, images, spread

from paramap_d2.losses import box_quality
from paramap_d2.modeling import detr_criterion
from paramap_d2.modeling.detr_criterion import CRITERIA, FocalCriterion, ParamAPCriterion, check_criterion

FUNCTIONS = {
    "rank_numerator": [[0, 0], [0.4, 0.1], [0.7, 0.6], [1, 1]],
    "sample_quality": [[0, 0], [0.3, 0.5], [1, 1]],
    "positive_weight": [[0, 0], [0.5, 0.7], [1, 1]],
    "positive_quality": [[0, 0], [0.6, 0.2], [1, 1]],
    "rank_denominator": [[0, 0], [0.5, 0.6], [1, 1]],
}


def pairs_of_reference(logits, boxes, targets):
    """Deformable DETR's matching costs written out, query by query and object by object.

    Args:
        logits: (Q, C).
        boxes: (Q, 4) as (center x, center y, width, height).
        targets: (class, (4,) box in the same form) pairs.

    Returns:
        (query, target) pairs.
    """
    from scipy.optimize import linear_sum_assignment

    def corners(box):
        x, y, w, h = (float(v) for v in box)
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2

    def giou(a, b):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners(a), corners(b)
        inner = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
        union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        return inner / union - (hull - union) / hull

    costs = np.zeros((len(logits), len(targets)))
    for q in range(len(logits)):
        for t, (label, box) in enumerate(targets):
            p = 1 / (1 + math.exp(-float(logits[q, label])))
            focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
            distance = sum(abs(float(a) - float(b)) for a, b in zip(boxes[q], box, strict=True))
            costs[q, t] = 2 * focal + 5 * distance - 2 * giou(boxes[q], box)
    return list(zip(*(side.tolist() for side in linear_sum_assignment(costs)), strict=True))


@pytest.mark.parametrize("block_gradient", [True, False])
@pytest.mark.parametrize("quality", ["giou", "l1"])
def test_loss_and_gradients_are_those_of_the_slow_reference(tmp_path, block_gradient, quality):
    path = tmp_path / "loss.json"
    path.write_text(json.dumps({"format": 1, "heads": {"detr": {"functions": FUNCTIONS, "grad_scale": 2.5}}}))
    model = detector(param_ap={"loss": str(path), "block_gradient": block_gradient, "quality": quality})
    inputs = images()
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 3, 20, 3, generator=generator)
    boxes = torch.rand(2, 3, 20, 4, generator=generator) * torch.tensor([0.4, 0.4, 0.3, 0.3]) + 0.2
    logits.requires_grad_()
    boxes.requires_grad_()
    found = model.criterion(logits, boxes, [x["instances"] for x in inputs])
    assert list(found) == ["loss_cls_0", "loss_box_reg_0", "loss_cls", "loss_box_reg"]
    sum(found.values()).backward()

    for layer, suffix in enumerate(["_0", ""]):
        targets, quality_of, samples = [], {}, 20 * 3
        leaf = boxes.detach()[layer].clone().requires_grad_()
        scores = logits[layer].flatten().tolist()
        flags = [0] * len(scores)
        for i, x in enumerate(inputs):
            height, width = x["image"].shape[1:]
            scale = torch.tensor([width, height, width, height])
            x0, y0, x1, y1 = (x["instances"].gt_boxes.tensor / scale).unbind(1)
            targets = list(
                zip(
                    x["instances"].gt_classes.tolist(),
                    torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1).tolist(),
                    strict=True,
                )
            )
            for query, target in pairs_of_reference(logits[layer, i].detach(), boxes[layer, i].detach(), targets):
                sample = i * samples + query * 3 + targets[target][0]
                cx, cy, w, h = leaf[i, query].unbind()
                predicted = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * scale
                truth = x["instances"].gt_boxes.tensor[target]
                quality_of[sample] = box_quality(predicted[None], truth[None], quality)[0]
                flags[sample] = 1
        assert sum(flags) == 4
        expected = reference.reference(
            scores,
            [float(quality_of[j].detach()) if j in quality_of else 0.0 for j in range(len(scores))],
            flags,
            FUNCTIONS,
            block_gradient=block_gradient,
            grad_scale=2.5,
        )
        total = found[f"loss_cls{suffix}"] + found[f"loss_box_reg{suffix}"]
        assert total.item() == pytest.approx(expected.loss, rel=1e-5)
        torch.testing.assert_close(
            logits.grad[layer].flatten(), torch.tensor(expected.grad_scores), rtol=1e-4, atol=1e-6
        )
        sum(expected.grad_quality[j] * q for j, q in quality_of.items()).backward()
        assert leaf.grad.abs().sum() > 0
        torch.testing.assert_close(boxes.grad[layer], leaf.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_a_batch_without_any_object(criterion):
    model = spread(detector(criterion=criterion))
    found, storage = losses(model, [without_objects(x) for x in images()])
    for name, loss in found.items():
        assert loss.isfinite(), name
        assert criterion == "focal" and "cls" in name or loss.item() == 0, name
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    if criterion == "param_ap":
        assert storage.latest()["param_ap/detr_positives"][0] == 0


def test_an_image_without_objects_takes_part_with_its_negatives():
    model = spread(detector()).eval()
    *some, empty = images()
    with torch.no_grad():
        logits, boxes = (torch.randn(2, 3, 20, 3), torch.rand(2, 3, 20, 4) / 2 + 0.2)
        instances = [x["instances"] for x in (*some, empty)]
        three = model.criterion(logits, boxes, instances)
        logits[:, 2] = -100  # the third image's queries sink below all others
        sunk = model.criterion(logits, boxes, instances)
        two = model.criterion(logits[:, :2], boxes[:, :2], instances[:2])
    assert three["loss_cls"] > sunk["loss_cls"]
    assert sunk["loss_cls"].item() == pytest.approx(two["loss_cls"].item(), rel=1e-6)
    assert three["loss_box_reg"].item() == pytest.approx(two["loss_box_reg"].item(), rel=1e-6)


def test_more_objects_than_queries():
    model = detector(num_queries=2)
    found, storage = losses(model, images()[:1])
    assert storage.latest()["param_ap/detr_positives"][0] == 2
    assert all(loss.isfinite() for loss in found.values())


def test_positives_and_quality_of_every_layer_are_logged():
    _, storage = losses(detector(), images())
    latest = storage.latest()
    for name in ("detr_0", "detr"):
        assert latest[f"param_ap/{name}_positives"][0] == 4
        assert 0 < latest[f"param_ap/{name}_quality"][0] < 1


def test_the_baseline_counts_the_objects_of_all_processes(monkeypatch):
    """The mean over processes of the losses' gradients is that of one process with the whole batch."""
    criterion = FocalCriterion(3)
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 3, 20, 3), torch.rand(2, 3, 20, 4) / 2 + 0.2
    instances = [x["instances"] for x in images()]
    whole = criterion(logits, boxes, instances)
    counts = [len(x) for x in instances]
    assert len(set(counts)) > 1
    monkeypatch.setattr(detr_criterion, "several_processes", lambda: True)
    monkeypatch.setattr(detr_criterion.dist, "get_world_size", lambda: 2)
    parts = []
    for own in (slice(0, 1), slice(1, 3)):
        monkeypatch.setattr(detr_criterion.dist, "all_reduce", lambda own: own.fill_(sum(counts)))
        parts.append(criterion(logits[:, own], boxes[:, own], instances[own]))
    for name, loss in whole.items():
        assert loss.item() == pytest.approx(sum(part[name].item() for part in parts) / 2, rel=1e-5), name


def test_a_criterion_of_ones_own_is_one_argument():
    class Nothing(torch.nn.Module):
        def forward(self, logits, boxes, instances):
            assert logits.shape == (2, 3, 20, 3) and boxes.shape == (2, 3, 20, 4) and len(instances) == 3
            return {"loss_nothing": 0 * logits.sum()}

    found, _ = losses(detector(criterion=Nothing()), images())
    assert list(found) == ["loss_nothing"]


def test_names_of_criteria():
    for name in CRITERIA:
        check_criterion(name)
    with pytest.raises(ValueError, match="criterion must be one of param_ap, focal, not 'ap'"):
        check_criterion("ap")


@pytest.mark.parametrize("criterion", [lambda n: ParamAPCriterion(n, {"loss": "square"}), FocalCriterion])
def test_a_criterion_of_other_classes_than_the_detectors_is_refused(criterion):
    """It would take every query without an object for one with the object of the class beyond its own."""
    with pytest.raises(ValueError, match="the criterion is for 2 classes, and the detector has 3"):
        criterion(2)(torch.zeros(1, 1, 5, 3), torch.full((1, 1, 5, 4), 0.5), [])
