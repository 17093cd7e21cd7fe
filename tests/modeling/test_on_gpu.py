"""The detectors on a GPU, pretended where there is none."""

import detr
import pytest
import torch
from detectors import DETECTORS, batch, build, losses

from tests.pretended_gpu import NAME, PretendedGPU

STOCK = {
    "retinanet": ["MODEL.META_ARCHITECTURE", "RetinaNet"],
    "faster_rcnn": ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def run(model, inputs):
    """Losses and gradients, on the CPU."""
    terms, _ = losses(model, inputs)
    sum(terms.values()).backward()
    on_device = [*terms.values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    assert {x.device for x in on_device} == {model.device}
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    return {name: term.item() for name, term in terms.items()}, gradients


def assert_detects(model, inputs):
    model.eval()
    with torch.no_grad():
        outputs = model([{"image": item["image"]} for item in inputs])
    found = outputs[0]["instances"]
    assert len(found) and found.scores.device == found.pred_boxes.device == model.device


@pytest.mark.parametrize("loss", ["retinanet-coco", "square", "ap-loss", "rank-sort"])
@pytest.mark.parametrize("detector", ["retinanet", "fcos"])
def test_losses_and_gradients_are_those_on_a_cpu(detector, loss, gpu):
    inputs = batch(detector, 2)
    model = build(detector, "MODEL.PARAM_AP.LOSS", loss).to(gpu)
    (on_gpu, got), (on_cpu, want) = run(model, inputs), run(build(detector, "MODEL.PARAM_AP.LOSS", loss), inputs)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)
    assert got.keys() == want.keys()
    for name in want:
        assert (got[name] - want[name]).norm() <= 0.02 * want[name].norm() + 1e-6, name
    assert_detects(model, inputs)


@pytest.mark.parametrize("loss", ["fasterrcnn-coco", "rank-sort"])
@pytest.mark.parametrize("detector", [name for name in DETECTORS if name.endswith("rcnn")])
def test_rcnns(detector, loss, gpu):
    """Their regions are drawn, and so other ones on another device."""
    model, inputs = build(detector, "MODEL.PARAM_AP.LOSS", loss).to(gpu), batch(detector, 2)
    run(model, inputs)
    assert_detects(model, inputs)


@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_deformable_detr(criterion, gpu):
    model = detr.spread(detr.detector(criterion=criterion))
    on_cpu, _ = run(model, detr.images())
    model = detr.spread(detr.detector(criterion=criterion)).to(gpu)
    on_gpu, _ = run(model, detr.images())
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3, abs=1e-4)
    assert_detects(model, detr.images())


@pytest.mark.parametrize("detector", STOCK)
def test_a_step_waits_for_a_gpu_no_more_often_than_detectron2s_own(detector):
    """What is asked of it, such as where the positives are, holds up what was queued."""
    inputs, waits = batch(detector, 2), []
    for opts in ([], STOCK[detector]):
        with PretendedGPU() as gpu:
            model = build(detector, *opts).to(NAME)
            gpu.waits = 0
            run(model, inputs)
            waits.append(gpu.waits - len(list(model.parameters())))  # run() copies the gradients
    assert waits[0] <= waits[1]
