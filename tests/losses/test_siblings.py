"""AP Loss and RS Loss against plain double loops after their papers' formulas: value and update."""

import math

import pytest
import torch

from paramap_d2.losses import (
    SIBLINGS,
    APLoss,
    ParameterizedAPLoss,
    RankingLoss,
    RankSortLoss,
    error_driven,
    load_loss,
    parameterized_ap,
)
from paramap_d2.losses.pairwise import PairwiseSums


def step(d, delta):
    return min(max(d / (2 * delta) + 0.5, 0.0), 1.0)


def ap_loop(scores, positives):
    """Chen et al., Eq. 5 and Algorithm 1."""
    negatives = [j for j in range(len(scores)) if j not in positives and scores[j] > -math.inf]
    grad, loss, best = [0.0] * len(scores), 0.0, 0.0
    for i in sorted(positives, key=lambda i: scores[i]):
        rank = 1 + sum(step(scores[k] - scores[i], 1.0) for k in [*negatives, *positives] if k != i)
        primary = {j: step(scores[j] - scores[i], 1.0) / rank for j in negatives}
        precision = 1 - sum(primary.values())
        if precision >= best:
            best = precision
        else:
            primary = {j: term * (1 - best) / (1 - precision) for j, term in primary.items()}
        for j, term in primary.items():
            grad[j] += term / len(positives)
            grad[i] -= term / len(positives)
            loss += term / len(positives)
    return loss, grad


def rank_sort_loop(scores, positives, iou):
    """Oksuz et al., Eqs. 6 to 8 and the identity update."""
    negatives = [j for j in range(len(scores)) if j not in positives and scores[j] > -math.inf]
    y = dict(zip(positives, iou, strict=True))
    grad, loss = [0.0] * len(scores), 0.0
    for i in positives:
        h = {j: step(scores[j] - scores[i], 0.5) for j in [*negatives, *positives]}
        false = sum(h[j] for j in negatives)
        ranking = false / sum(h.values())
        better = [j for j in positives if y[j] >= y[i]]
        sorting = sum(h[j] * (1 - y[j]) for j in positives) / sum(h[j] for j in positives)
        sorting -= sum(h[j] * (1 - y[j]) for j in better) / sum(h[j] for j in better)
        lower = sum(h[j] for j in positives if y[j] < y[i])
        loss += ranking / len(positives)
        for j in negatives:
            if false > 0:
                grad[j] += ranking * h[j] / false / len(positives)
        grad[i] -= ranking / len(positives)
        if lower > 0:
            loss += sorting / len(positives)
            grad[i] -= sorting / len(positives)
            for j in positives:
                if y[j] < y[i]:
                    grad[j] += sorting * h[j] / lower / len(positives)
    return loss, grad


def batch(seed, n=40, p=8, grid=None):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, generator=generator, dtype=torch.float64) * 1.5
    scores = scores if grid is None else (scores * grid).round() / grid
    scores[:2] = -torch.inf
    positives = torch.randperm(n - 2, generator=generator)[:p] + 2
    giou, iou = torch.rand(2, p, generator=generator, dtype=torch.float64)
    return scores, positives, giou, iou if grid is None else (iou * 4).round() / 4


CASES = pytest.mark.parametrize(("seed", "grid"), [(s, g) for s in range(6) for g in (None, 4, 1)])


@CASES
def test_ap_loss_is_the_double_loop(seed, grid):
    scores, positives, giou, _ = batch(seed, grid=grid)
    scores.requires_grad_(), giou.requires_grad_()
    ranking, boxes = APLoss().terms(scores, positives, giou)
    want, update = ap_loop(scores.tolist(), positives.tolist())
    of_scores, of_giou = torch.autograd.grad(ranking + boxes, (scores, giou))
    assert ranking.item() == pytest.approx(want, rel=1e-9)
    assert of_scores.tolist() == pytest.approx(update, rel=1e-9, abs=1e-12)
    assert boxes.item() == pytest.approx(2 - 2 * giou.mean().item())
    assert of_giou.tolist() == pytest.approx([-2 / len(giou)] * len(giou))


@CASES
def test_rank_sort_is_the_double_loop(seed, grid):
    scores, positives, giou, iou = batch(seed, grid=grid)
    scores.requires_grad_(), giou.requires_grad_()
    ranking, boxes = RankSortLoss().terms(scores, positives, giou, iou)
    want, update = rank_sort_loop(scores.tolist(), positives.tolist(), iou.tolist())
    of_scores, of_giou = torch.autograd.grad(ranking + boxes, (scores, giou))
    assert ranking.item() == pytest.approx(want, rel=1e-9)
    assert of_scores.tolist() == pytest.approx(update, rel=1e-9, abs=1e-12)
    # The self-balance: the box term has the ranking term's value, and its gradient is that value over its own.
    assert boxes.item() == pytest.approx(want)
    share = scores.detach()[positives].sigmoid()
    share = share / share.sum()
    own = float((share * 2 * (1 - giou.detach())).sum())
    assert of_giou.tolist() == pytest.approx((-2 * share * want / own).tolist(), rel=1e-9)


@pytest.mark.parametrize("loss", [APLoss(), RankSortLoss()])
def test_nothing_to_rank_half_precision_and_nan(loss):
    scores, positives, *given = batch(0)
    given = given[: len(loss.qualities)]
    ranking, boxes = loss.terms(scores.requires_grad_(), positives[:0], *(q[:0] for q in given))
    assert float(ranking) == float(boxes) == 0 and ranking.requires_grad
    half = loss.terms(scores.half(), positives, *given)
    same = loss.terms(scores.half().float(), positives, *given)
    assert half.ranking.dtype == torch.float32 and torch.equal(half.ranking, same.ranking)
    for value in (torch.nan, torch.inf):
        for place in (1, positives[0], positives):  # a negative, a positive, all of them
            wrong = scores.detach().clone()
            wrong[place] = value
            assert sum(loss.terms(wrong, positives, *given)).isnan()
    for place in range(len(given)):
        wrong = [quality.clone() for quality in given]
        wrong[place][2] = torch.nan
        assert sum(loss.terms(scores.detach(), positives, *wrong)).isnan()


@pytest.mark.parametrize("loss", [APLoss(), RankSortLoss()])
@pytest.mark.parametrize("some", [1, 8])
def test_positives_below_everything(loss, some):
    scores, positives, *given = batch(0)
    scores[positives[:some]] = -torch.inf
    terms = loss.terms(scores.requires_grad_(), positives, *given[: len(loss.qualities)])
    sum(terms).backward()
    assert 0 < terms.ranking.item() < 1 and terms.localization.isfinite() and scores.grad.isfinite().all()


def thousands(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5000, generator=generator, dtype=torch.float64)
    scores[(torch.rand(5000, generator=generator) < 0.6)] -= 40
    scores = (scores * 2**6).round() / 2**6  # many ties, many differences of exactly ±δ
    positives = torch.randperm(5000, generator=generator)[:400]
    scores[positives] += 0.5
    scores[7] = -torch.inf
    giou, iou = torch.rand(2, 400, generator=generator, dtype=torch.float64)
    return scores.to(dtype), positives, giou, iou


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SIBLINGS.values())
def test_the_fast_sums_are_those_over_all_pairs(kind, dtype, monkeypatch):
    found = []
    for path in (error_driven.BucketSums, PairwiseSums):
        monkeypatch.setattr(error_driven, "BucketSums", path)
        scores, positives, *given = thousands(dtype)
        given = [quality.requires_grad_() for quality in given[: len(kind.qualities)]]
        terms = kind().terms(scores.requires_grad_(), positives, *given)
        (3 * terms.ranking + terms.localization).backward()
        assert terms.ranking > 0.1 and scores.grad.count_nonzero() > 1000
        found.append((*terms, scores.grad, given[0].grad))
    for fast, slow in zip(*found, strict=True):
        tolerance = 1e-6 if fast.dtype == torch.float32 else 1e-11
        torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance * float(slow.abs().max()))


@pytest.mark.parametrize("kind", SIBLINGS.values())
@pytest.mark.parametrize("far", [2.0**25, 1e30, -(2.0**25)])
def test_scores_beyond_the_fast_sums(kind, far):
    """A negative far above, or a positive far below."""
    scores, positives, giou, iou = batch(0)
    scores[positives[0] if far < 0 else 1] = far
    scores.requires_grad_()
    given = [giou, iou][: len(kind.qualities)]
    ranking = kind().terms(scores, positives, *given).ranking
    loop = rank_sort_loop if kind is RankSortLoss else ap_loop
    want, update = loop(scores.tolist(), positives.tolist(), *(q.tolist() for q in given[1:]))
    (of_scores,) = torch.autograd.grad(ranking, scores)
    assert ranking.item() == pytest.approx(want, rel=1e-9)
    assert of_scores.tolist() == pytest.approx(update, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", SIBLINGS.values())
def test_a_loss_keeps_nothing_from_batch_to_batch(kind):
    """The self-balance of RS Loss, too, is of the batch alone: a training resumes without it."""
    loss, (scores, positives, *given) = kind(), batch(0)
    given = given[: len(kind.qualities)]
    first = loss.terms(scores, positives, *given)
    other = batch(1)
    loss.terms(*other[: 2 + len(given)])
    assert loss.terms(scores, positives, *given) == first and loss.state_dict() == {}


@pytest.mark.parametrize("kind", SIBLINGS.values())
def test_the_gradient_scale_is_of_the_boxes_alone(kind):
    found = []
    for scale in (1.0, 3.0):
        scores, positives, *given = batch(0)
        giou = given[0].requires_grad_()
        terms = kind(scale).terms(scores.requires_grad_(), positives, *given[: len(kind.qualities)])
        sum(terms).backward()
        found.append((*terms, scores.grad, giou.grad))
    for once, thrice, factor in zip(*found, (1, 1, 1, 3), strict=True):
        torch.testing.assert_close(thrice, factor * once)
    with pytest.raises(ValueError, match="grad_scale must be a positive number, not 0"):
        kind(0)


def test_all_of_them_are_ranking_losses():
    assert all(issubclass(kind, RankingLoss) for kind in (ParameterizedAPLoss, *SIBLINGS.values()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("loss", [*SIBLINGS.values(), None])
def test_of_scores_that_make_a_loss_nan_nothing_is_summed(bad, loss, monkeypatch):
    def asked(*arguments):
        raise AssertionError("pairs of what is known to be NaN")

    for module in (error_driven, parameterized_ap):
        for path in ("BucketSums", "PairwiseSums"):
            monkeypatch.setattr(module, path, asked)
    ranking_loss = loss() if loss else ParameterizedAPLoss(load_loss("retinanet-coco")["dense"].functions)
    scores = torch.zeros(100).index_fill(0, torch.tensor([7]), bad).requires_grad_()
    quality = torch.full((2,), 0.5, requires_grad=True)
    terms = ranking_loss.terms(scores, torch.tensor([3, 4]), *[quality] * (len(ranking_loss.qualities or "q")))
    assert math.isnan(terms.ranking)
    terms.ranking.backward()
    assert scores.grad is not None
