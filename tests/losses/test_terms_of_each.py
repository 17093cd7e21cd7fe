"""Several rankings in one call, such as a decoder's layers: each has the loss that it has alone."""

import math

import pytest
import torch
from cases import SEARCHED, built
from test_cost import Counted

from paramap_d2.losses import FUNCTION_NAMES, APLoss, ParameterizedAPLoss, RankSortLoss

KINDS = {"searched": SEARCHED, **{name: dict.fromkeys(FUNCTION_NAMES, name) for name in ("square", "sigmoid")}}


def draw(layers, n, p, dtype=torch.float64, seed=0):
    """Layers whose scores lie where they like: some apart, some on top of each other, one wide."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, n, generator=generator, dtype=torch.float64)
    scores = scores * torch.tensor([1.0, 0.3, 8.0])[torch.arange(layers) % 3, None]
    scores += torch.tensor([0.0, 0.0, -4.0, 30.0, -900.0])[torch.arange(layers) % 5, None]
    scores[:, n // 2 :] -= 12 * (torch.arange(layers) % 2)[:, None]
    positives = torch.stack([torch.randperm(n // 2, generator=generator)[:p] for _ in range(layers)])
    scores[:, ::9] = scores[:, :1]  # ties
    quality = torch.rand(layers, p, generator=generator, dtype=torch.float64)
    return scores.to(dtype).requires_grad_(), positives, quality.to(dtype).requires_grad_()


def terms_and_gradients(loss_fn, scores, positives, qualities, together):
    if together:
        terms = loss_fn.terms_of_each(scores, positives, *qualities)
    else:
        rows = (loss_fn.terms(*row) for row in zip(scores, positives, *qualities, strict=True))
        terms = [torch.stack(term) for term in zip(*rows, strict=True)]
    ways = torch.linspace(1, 3, len(scores), dtype=scores.dtype)
    total = (terms[0] * ways).sum() + (terms[1] * ways.flip(0)).sum()
    return [term.detach() for term in terms] + list(torch.autograd.grad(total, (scores, *qualities), allow_unused=True))


def assert_each_is_as_alone(loss_fn, scores, positives, *qualities, rtol=1e-12):
    got, want = (terms_and_gradients(loss_fn, scores, positives, qualities, way) for way in (True, False))
    for one, other in zip(got, want, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("block_gradient", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "n", "p"), [(1, 50, 4), (2, 60, 1), (6, 900, 20), (5, 6000, 30)])
def test_each_has_the_loss_and_gradient_that_it_has_alone(layers, n, p, kind, block_gradient):
    loss_fn = ParameterizedAPLoss(built(KINDS[kind]), block_gradient=block_gradient, grad_scale=2.5)
    assert_each_is_as_alone(loss_fn, *draw(layers, n, p))


@pytest.mark.parametrize("kind", ["searched", "square"])
def test_a_gpu_s_way_gives_the_same(kind, request):
    """What runs on a GPU, on this CPU: searches in the place of the table, and torch in that of NumPy."""
    loss_fn = ParameterizedAPLoss(built(KINDS[kind]), block_gradient=False, grad_scale=2.5)
    scores, positives, quality = draw(5, 6000, 30)
    wanted = terms_and_gradients(loss_fn, scores, positives, [quality], True)
    request.getfixturevalue("without_numpy")
    loss_fn = ParameterizedAPLoss(built(KINDS[kind]), block_gradient=False, grad_scale=2.5)
    assert_each_is_as_alone(loss_fn, scores, positives, quality)
    for got, want in zip(terms_and_gradients(loss_fn, scores, positives, [quality], True), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_in_single_precision(kind):
    assert_each_is_as_alone(ParameterizedAPLoss(built(KINDS[kind])), *draw(6, 3000, 25, torch.float32), rtol=1e-6)


def test_with_top_k():
    assert_each_is_as_alone(ParameterizedAPLoss(built(SEARCHED), top_k=40), *draw(5, 300, 12))


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize("value", [1e9, -math.inf])
def test_scores_beyond_the_fast_sums(value, who):
    scores, positives, quality = draw(3, 40, 5)
    with torch.no_grad():
        scores[1, positives[1, who]] = value
    assert_each_is_as_alone(ParameterizedAPLoss(built(SEARCHED)), scores, positives, quality)


def test_without_positives_the_losses_are_connected_zeros():
    scores, positives, quality = draw(4, 30, 0)
    terms = ParameterizedAPLoss(built(SEARCHED)).terms_of_each(scores, positives, quality)
    assert terms.ranking.tolist() == terms.localization.tolist() == [0.0] * 4
    terms.ranking.sum().backward()
    assert scores.grad.shape == scores.shape and not scores.grad.any() and quality.grad.shape == (4, 0)


@pytest.mark.parametrize("sibling", [APLoss, RankSortLoss])
def test_the_siblings_take_them_one_after_the_other(sibling):
    scores, positives, giou = draw(3, 80, 6)
    qualities = (giou, giou.detach().div(2).requires_grad_())[: len(sibling.qualities)]
    assert_each_is_as_alone(sibling(), scores, positives, *qualities)


def test_six_layers_take_about_the_operations_of_one():
    loss_fn = ParameterizedAPLoss(built(SEARCHED))

    def operations(layers):
        scores, positives, quality = draw(layers, 20_000, 40, torch.float32)
        with Counted() as counted:
            sum(loss_fn.terms_of_each(scores, positives, quality)).sum().backward()
        return counted.operations

    operations(1)  # makes the tables that are kept
    assert operations(6) <= operations(1) + 25
