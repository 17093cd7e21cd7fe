import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from paramap_d2.losses import box_quality


def boxes(n, seed):
    corners = torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    return torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)


def test_giou_and_iou_are_torchvisions():
    a, b = boxes(50, 0), boxes(50, 1)
    torch.testing.assert_close(box_quality(a, b), (generalized_box_iou(a, b).diag() + 1) / 2)
    torch.testing.assert_close(box_quality(a, b, "iou"), box_iou(a, b).diag())


@pytest.mark.parametrize(
    ("predicted", "giou", "iou", "l1"),
    [
        ((0, 0, 2, 4), 1.0, 1.0, 1.0),
        ((1, 0, 3, 4), (1 / 3 + 1) / 2, 1 / 3, math.exp(-(0.5 + 0.5) / 4)),
        ((0, 4, 2, 8), (0 - 0 + 1) / 2, 0.0, math.exp(-(1 + 1) / 4)),
        ((4, 0, 6, 4), (0 - 1 / 3 + 1) / 2, 0.0, math.exp(-(2 + 2) / 4)),
        ((0, 0, 0, 0), (0 - 0 + 1) / 2, 0.0, math.exp(-(1 + 1) / 4)),
    ],
)
def test_by_hand(predicted, giou, iou, l1):
    predicted, target = torch.tensor([predicted]).double(), torch.tensor([[0.0, 0.0, 2.0, 4.0]]).double()
    for kind, want in (("giou", giou), ("iou", iou), ("l1", l1)):
        assert float(box_quality(predicted, target, kind)) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("kind", ["giou", "iou", "l1"])
def test_any_boxes_give_qualities_and_finite_gradients(kind):
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(500, 4, generator=generator, dtype=torch.float64) * 10  # half of them inside out
    predicted[:50, 2:] = predicted[:50, :2]
    target = boxes(500, 2)
    target[50:60] = predicted[50:60].abs().sort(dim=1).values
    target[60:70, 2:] = target[60:70, :2]
    predicted.requires_grad_()
    quality = box_quality(predicted, target, kind)
    assert ((quality >= 0) & (quality <= 1)).all()
    quality.sum().backward()
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["giou", "iou", "l1"])
def test_gradcheck(kind):
    predicted = (boxes(6, 3) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: box_quality(p, boxes(6, 4) * 0.3, kind), (predicted,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = boxes(9, 0).to(dtype), boxes(9, 1).to(dtype)
    assert box_quality(a, b).dtype == torch.float32
    assert torch.equal(box_quality(a, b), box_quality(a.float(), b.float()))


@pytest.mark.parametrize("kind", ["giou", "iou", "l1"])
def test_no_boxes(kind):
    none = torch.zeros(0, 4, requires_grad=True)
    quality = box_quality(none, torch.zeros(0, 4), kind)
    assert quality.shape == (0,)
    quality.sum().backward()
    assert none.grad.shape == (0, 4)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="box quality must be one of giou, iou, l1, not 'diou'"):
        box_quality(torch.zeros(1, 4), torch.zeros(1, 4), "diou")
    for shape in ((2, 4), (1, 5), (4,)):
        with pytest.raises(ValueError, match=r"boxes must be \(P, 4\) twice, not \(1, 4\) and"):
            box_quality(torch.zeros(1, 4), torch.zeros(shape))
