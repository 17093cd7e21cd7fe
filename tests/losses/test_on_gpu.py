"""The losses on a GPU, pretended where there is none: value and gradients are those on a CPU."""

import pytest
import torch
from cases import SEARCHED, built
from test_terms_of_each import draw as layers_of_each

from benchmarks.loss import draw
from paramap_d2.losses import FUNCTION_NAMES, APLoss, ParameterizedAPLoss, RankSortLoss, box_quality

KINDS = {"searched": SEARCHED, **{name: dict.fromkeys(FUNCTION_NAMES, name) for name in ("square", "sqrt", "sigmoid")}}
SITUATIONS = pytest.mark.parametrize("situation", ["early", "late"])


def assert_same(got, want, tolerance):
    for one, other in zip(got, want, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.device.type != "cpu" and one.dtype == other.dtype
        torch.testing.assert_close(one.cpu(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def terms(loss_fn, scores, positives, qualities, device):
    scores, *qualities = (x.detach().to(device).requires_grad_() for x in (scores, *qualities))
    found = loss_fn.terms(scores, positives.to(device), *qualities)
    gradients = torch.autograd.grad(2 * found.ranking + found.localization, (scores, *qualities), allow_unused=True)
    return [found.ranking.detach(), found.localization.detach(), *gradients]


@SITUATIONS
@pytest.mark.parametrize("block_gradient", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss(kind, situation, block_gradient, dtype, gpu):
    batch = draw(6_000, 80, situation, "cpu")
    loss_fn = ParameterizedAPLoss(built(KINDS[kind]), block_gradient=block_gradient, grad_scale=2.5)
    given = batch.scores.to(dtype), batch.positives, [batch.positive_quality.to(dtype)]
    got, want = (terms(loss_fn, *given, device) for device in (gpu, "cpu"))
    assert_same(got, want, 1e-9 if dtype == torch.float64 else 1e-4)


@SITUATIONS
@pytest.mark.parametrize("top_k", [None, 500])
def test_from_targets_over_all_samples(situation, top_k, gpu):
    loss_fn = ParameterizedAPLoss(built(SEARCHED), top_k=top_k)

    def run(device):
        batch = draw(6_000, 80, situation, device)
        scores, quality = (x.detach().double().requires_grad_() for x in (batch.scores, batch.quality))
        loss = loss_fn(scores, quality, batch.targets)
        return [loss.detach(), *torch.autograd.grad(loss, (scores, quality))]

    assert_same(run(gpu), run("cpu"), 1e-9)


@SITUATIONS
@pytest.mark.parametrize("loss_fn", [APLoss(), RankSortLoss()])
def test_the_losses_without_functions(loss_fn, situation, gpu):
    batch = draw(6_000, 80, situation, "cpu")
    qualities = [batch.positive_quality.double()] * len(loss_fn.qualities)
    given = batch.scores.double(), batch.positives, qualities
    got, want = (terms(loss_fn, *given, device) for device in (gpu, "cpu"))
    assert_same(got, want, 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_several_rankings_in_one_call(kind, gpu):
    loss_fn = ParameterizedAPLoss(built(KINDS[kind]), grad_scale=2.5)

    def run(device):
        scores, positives, quality = layers_of_each(6, 900, 20)
        scores, quality = (x.detach().to(device).requires_grad_() for x in (scores, quality))
        found = loss_fn.terms_of_each(scores, positives.to(device), quality)
        gradients = torch.autograd.grad((2 * found.ranking + found.localization).sum(), (scores, quality))
        return [found.ranking.detach(), found.localization.detach(), *gradients]

    assert_same(run(gpu), run("cpu"), 1e-9)


@pytest.mark.parametrize("loss_fn", [ParameterizedAPLoss(built(SEARCHED)), APLoss(), RankSortLoss()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_its_numbers_in_float32(loss_fn, dtype, gpu):
    batch = draw(6_000, 80, "early", gpu)
    scores = batch.scores.detach().to(dtype)
    qualities = [batch.positive_quality.detach()] * len(loss_fn.qualities or (0,))
    half, single = (loss_fn.terms(x, batch.positives, *qualities) for x in (scores, scores.float()))
    assert half.ranking.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["giou", "iou", "l1"])
def test_box_quality(kind, gpu):
    batch = draw(2_000, 300, "early", "cpu")
    pair = (batch.deltas, batch.target_deltas) if kind == "l1" else (batch.boxes, batch.target_boxes)
    want = box_quality(*(x.detach() for x in pair), kind)
    assert_same([box_quality(*(x.detach().to(gpu) for x in pair), kind)], [want], 1e-5)


def test_nothing_to_rank_and_numbers_that_are_none(gpu):
    loss_fn = ParameterizedAPLoss(built(SEARCHED))
    batch = draw(2_000, 30, "early", gpu)
    found = loss_fn.terms(batch.scores, batch.positives[:0], batch.positive_quality[:0])
    assert found.ranking.item() == found.localization.item() == 0 and found.ranking.device == batch.scores.device
    wrong = batch.scores.detach().clone()
    wrong[batch.positives[3]] = torch.nan
    assert sum(loss_fn.terms(wrong, batch.positives, batch.positive_quality)).isnan()
