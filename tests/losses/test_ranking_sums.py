"""Both paths to the sums over all pairs give the same sums and gradients wherever both apply."""

import pytest
import torch
from cases import HAIR, batches, dyadic_points, few
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.losses import PiecewiseLinear, Square, ranking_sums, small_arrays
from paramap_d2.losses.pairwise import PairwiseSums
from paramap_d2.losses.ranking_sums import SCORE_LIMIT, BucketSums


def sums_and_gradients(path, scores, positives, rated, weight, base_weight, functions, grads):
    anchor = scores[positives].double()
    sums = path(scores, anchor, *functions, rated, weight - base_weight, base_weight)
    of_scores, of_rated, of_weight = sums.gradient(grads)
    of_scores[rated] = of_rated.to(of_scores.dtype)
    return *sums.sums, *sums.slopes, of_scores, of_weight, sums.of_samples(grads[0])


def assert_paths_agree(scores, targets, functions, base_weight=0.75, tolerance=1e-9):
    positives = (targets == 1).nonzero().squeeze(1)
    rated = torch.cat([positives, (targets == 0).nonzero().squeeze(1)[::3]])
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(len(rated), dtype=torch.float64, generator=generator)
    grads = torch.rand(2, len(positives), dtype=torch.float64, generator=generator) - 0.5
    fast, slow = (
        sums_and_gradients(path, scores, positives, rated, weight, base_weight, functions, grads)
        for path in (BucketSums, PairwiseSums)
    )
    steepest = max(float(f.slope(torch.tensor(f.corners)).max()) for f in functions)
    for got, want in zip(fast, slow, strict=True):
        atol = tolerance * (1e-3 + float(want.abs().max())) + 1e-13 * steepest
        torch.testing.assert_close(got, want, rtol=tolerance, atol=atol)


@given(batch=batches(), numerator=dyadic_points(), denominator=dyadic_points())
@few
def test_agree_on_ties_and_corners(batch, numerator, denominator):
    scores, _, targets = (torch.as_tensor(v) for v in batch)
    targets[0] = 1
    assert_paths_agree(scores, targets, (PiecewiseLinear(numerator), PiecewiseLinear(denominator)))


@given(batch=batches(), linear=dyadic_points(), other=st.booleans(), order=st.booleans())
@few
def test_agree_where_a_function_is_quadratic(batch, linear, other, order):
    scores, _, targets = (torch.as_tensor(v) for v in batch)
    targets[0] = 1
    functions = Square(), PiecewiseLinear(linear) if other else Square()
    assert_paths_agree(scores, targets, functions[:: 1 if order else -1])


@pytest.mark.parametrize("way", [small_arrays.NumPy(), small_arrays.Torch(torch.device("cpu"))])
@pytest.mark.parametrize("functions", [(Square(), PiecewiseLinear.identity()), (PiecewiseLinear.identity(),) * 2])
def test_several_rankings_have_the_sums_of_each_alone(functions, way, monkeypatch):
    """Also where torch does what NumPy does on a CPU."""
    monkeypatch.setattr(ranking_sums, "arrays_on", lambda device: way)
    ranking_sums._breakpoints.cache_clear()
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 6000, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [3.0], [0.2]])
    scores[1] += 50
    scores[:, ::7] = -torch.inf
    positives = torch.stack([torch.randperm(6000, generator=generator)[:40] // 7 * 7 + 1 for _ in range(3)])
    rated = (positives + torch.arange(3)[:, None] * 6000).flatten()
    extra = torch.rand(120, generator=generator, dtype=torch.float64) - 0.75
    grads = torch.rand(2, 120, generator=generator, dtype=torch.float64) - 0.5
    sums = BucketSums(scores, scores.flatten()[rated].view(3, -1), *functions, rated, extra, 0.75)
    together = *sums.sums, *sums.slopes, *sums.gradient(grads), sums.of_samples(grads[0])
    for i in range(3):
        run = slice(40 * i, 40 * (i + 1))
        alone = BucketSums(scores[i], scores[i][positives[i]], *functions, positives[i], extra[run], 0.75)
        one = *alone.sums, *alone.slopes, *alone.gradient(grads[:, run]), alone.of_samples(grads[0, run])
        for got, want in zip(together, one, strict=True):
            torch.testing.assert_close(got.view(3, -1)[i], want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))
    ranking_sums._breakpoints.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("below", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("spread", [1.0, 10.0, 1000.0])
def test_agree_on_thousands(dtype, below, spread):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5000, generator=generator, dtype=torch.float64) * spread
    targets = torch.randint(0, 200, (5000,), generator=generator) == 0
    sunk = (torch.rand(5000, generator=generator) < below) & ~targets
    scores[sunk] -= 20 * spread
    # Differences of float32 scores are rounded pair by pair, and are multiples of 2^-14 here, exact in both paths.
    scores = ((scores * 2**14).round() / 2**14).to(dtype)
    functions = (
        PiecewiseLinear([(0, 0), (0.25, 0.125), (0.5, 0.125), (0.625, 0.75), (1, 1)]),
        PiecewiseLinear([(0, 0), (0.375, 0.0), (0.5, 0.5), (0.5 + HAIR / 2, 0.875), (1, 1)]),
    )
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert_paths_agree(scores, targets.long(), functions, tolerance=tolerance)
    assert_paths_agree(scores, targets.long(), (Square(), functions[0]), tolerance=tolerance)


def test_the_gradient_where_the_denominator_is_held_constant():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, generator=generator, dtype=torch.float64)
    positives = torch.randperm(300, generator=generator)[:20]
    weight = torch.rand(20, generator=generator, dtype=torch.float64)
    functions = PiecewiseLinear([(0, 0), (0.25, 0.5), (1, 1)]), PiecewiseLinear([(0, 0), (0.75, 0.25), (1, 1)])
    grads = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    grads[1] = 0
    given = scores, positives, positives, weight, 0.75, functions
    wanted = sums_and_gradients(PairwiseSums, *given, grads)
    for path in (BucketSums, PairwiseSums):
        for got, want in zip(sums_and_gradients(path, *given, grads[:1]), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@given(low=st.sampled_from([-torch.inf, -1e30, -SCORE_LIMIT, -100.0]), high=st.sampled_from([100.0, SCORE_LIMIT - 1]))
@few
def test_agree_up_to_the_limit_of_the_scores(low, high):
    scores = torch.tensor([0.0, 0.25, low, high, 0.5, -0.75], dtype=torch.float64)
    functions = PiecewiseLinear([(0, 0), (0.375, 0.25), (1, 1)]), PiecewiseLinear.identity()
    assert_paths_agree(scores, torch.tensor([1, 0, 0, 1, 1, 0]), functions)


def test_scores_one_step_from_a_breakpoint_fall_on_its_right_side():
    # float32 scores against float64 edges: the search must not round an edge onto a score.
    function = PiecewiseLinear([(0, 0), (0.55, 0.2), (0.6, 0.9), (1, 1)])
    anchor = torch.tensor([0.3], dtype=torch.float32)
    edge = (anchor.double() + (2 * 0.55 - 1)).float()
    above = torch.nextafter(edge, torch.tensor(9.0))
    below = torch.nextafter(edge, torch.tensor(-9.0))
    scores = torch.cat([anchor, edge, above, below])
    assert_paths_agree(scores.double(), torch.tensor([1, 0, 0, 0]), (function, function))
    positive, one = torch.tensor([0]), torch.ones(1).double()
    single, double = (
        sums_and_gradients(BucketSums, s, positive, positive, one, 1.0, (function, function), one[None])
        for s in (scores, scores.double())
    )
    for got, want in zip(single, double, strict=True):
        assert torch.equal(got, want.to(got.dtype))


def test_a_lonely_positive_far_away_does_not_spoil_the_look_up():
    # One window at 10,000 stretches the grid of cells so far that the others share a few of them.
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(3000, generator=generator, dtype=torch.float64) * 2**10).round() / 2**10
    targets = torch.arange(3000) % 100 == 0
    scores[100] = 10_000
    functions = PiecewiseLinear([(0, 0), (0.25, 0.125), (0.625, 0.75), (1, 1)]), PiecewiseLinear.identity()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        assert_paths_agree(scores.to(dtype), targets.long(), functions, tolerance=tolerance)


def test_every_breakpoint_has_the_slope_to_its_right():
    """2x − 1 and back rounds below x for some x, and the slope of the piece before would then serve for the whole."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.linspace(-2, 2, 41, dtype=torch.float64)
    targets = torch.zeros(41, dtype=torch.int64)
    targets[20] = 1
    rounded = 0
    for x in (0.01 + 0.24 * torch.rand(200, dtype=torch.float64, generator=generator)).tolist():
        rounded += (2 * x - 1) / 2 + 0.5 < x
        steep = PiecewiseLinear([(0, 0), (x, 0), (1, 1)])
        assert_paths_agree(scores, targets, (steep, PiecewiseLinear([(0, 0), (x, 1), (1, 1)])))
    assert rounded > 10
