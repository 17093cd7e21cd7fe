"""Value and gradients against the slow double loop, and what the loss promises at its edges."""

import math

import pytest
import torch
from cases import (
    SEARCHED,
    any_functions,
    assert_agrees,
    batches,
    built,
    dyadic_functions,
    few,
    run,
)
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loss import draw, with_forward, with_terms
from paramap_d2.losses import FUNCTION_NAMES, ParameterizedAPLoss
from paramap_d2.losses.encoding import decode_grad_scale, decode_points, encode_points

BLOCKING = pytest.mark.parametrize("block_gradient", [True, False])


def batch(n=40, p=6, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5) * 2 * spread
    targets = torch.zeros(n, dtype=torch.int64)
    targets[torch.randperm(n, generator=generator)[:p]] = 1
    quality = torch.rand(n, generator=generator, dtype=torch.float64) * (targets == 1)
    return scores, quality, targets


# Against the double loop


@BLOCKING
@given(batch=batches(), functions=dyadic_functions)
@few
def test_agrees_on_ties_and_corners(batch, functions, block_gradient):
    assert_agrees(*batch, functions, block_gradient=block_gradient)


@BLOCKING
@given(batch=batches(grid=False), functions=any_functions, grad_scale=st.sampled_from([0.1, 1.0, 4.1231]))
@few
def test_agrees_anywhere(batch, functions, block_gradient, grad_scale):
    assert_agrees(*batch, functions, block_gradient=block_gradient, grad_scale=grad_scale)


@given(batch=batches(grid=False, spread=40.0), functions=any_functions)
@few
def test_agrees_when_windows_lie_far_apart(batch, functions):
    assert_agrees(*batch, functions, block_gradient=False)


@given(batch=batches(), functions=dyadic_functions, top_k=st.integers(1, 25), block_gradient=st.booleans())
@few
def test_agrees_with_top_k_and_its_ties(batch, functions, top_k, block_gradient):
    assert_agrees(*batch, functions, top_k=top_k, block_gradient=block_gradient)


@BLOCKING
@pytest.mark.parametrize("name", ["sigmoid", "sqrt", "linear", "square"])
@given(batch=batches(grid=False))
@few
def test_substitutions_agree(batch, name, block_gradient):
    assert_agrees(*batch, dict.fromkeys(FUNCTION_NAMES, name), block_gradient=block_gradient)


@pytest.mark.parametrize("name", ["sqrt", "linear", "square"])
@given(batch=batches())
@few
def test_substitutions_agree_on_ties_and_corners(batch, name):
    assert_agrees(*batch, dict.fromkeys(FUNCTION_NAMES, name))


@pytest.mark.parametrize("mixed", ["rank_numerator", "rank_denominator"])
def test_functions_of_both_kinds_mix(mixed):
    assert_agrees(*batch(), {**SEARCHED, mixed: "sigmoid"}, block_gradient=False)


@BLOCKING
@given(batch=batches(grid=False))
@few
def test_float32_agrees(batch, block_gradient):
    assert_agrees(*batch, SEARCHED, torch.float32, 1e-5, block_gradient=block_gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    scores, quality, targets = batch()
    assert_agrees(scores, quality, targets, SEARCHED, dtype, 1e-2)  # the gradients come back in half precision
    loss = ParameterizedAPLoss(built(SEARCHED))
    assert loss(scores.to(dtype), quality.to(dtype), targets).dtype == torch.float32
    same = loss(scores.to(dtype).float(), quality.to(dtype).float(), targets)
    assert torch.equal(loss(scores.to(dtype), quality.to(dtype), targets), same)


def test_the_result_has_the_type_of_the_scores():
    scores, quality, targets = batch()
    loss = ParameterizedAPLoss(built(SEARCHED))
    assert loss(scores, quality.float(), targets).dtype == torch.float64
    assert loss(scores.float(), quality, targets).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e6, -1e6, 1e12, -1e12, 1e30, -1e30])
@pytest.mark.parametrize("who", ["all", "a positive", "a negative"])
def test_very_large_scores(offset, who, dtype):
    scores, quality, targets = batch(n=20, p=4)
    chosen = {"all": slice(None), "a positive": targets.nonzero()[0], "a negative": (targets == 0).nonzero()[0]}
    scores[chosen[who]] += offset
    for block_gradient in (True, False):
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        assert_agrees(scores, quality, targets, SEARCHED, dtype, tolerance, block_gradient=block_gradient)


@pytest.mark.parametrize("name", [None, "sigmoid", "sqrt"])
@pytest.mark.parametrize("who", ["negatives", "one positive", "all positives", "all"])
def test_scores_of_minus_infinity(who, name):
    scores, quality, targets = batch(n=20, p=4)
    chosen = {
        "negatives": (targets == 0).nonzero()[::2],
        "one positive": targets.nonzero()[0],
        "all positives": targets == 1,
        "all": slice(None),
    }
    scores[chosen[who]] = -math.inf
    functions = SEARCHED if name is None else dict.fromkeys(FUNCTION_NAMES, name)
    for block_gradient in (True, False):
        assert_agrees(scores, quality, targets, functions, block_gradient=block_gradient)


def test_negatives_below_the_other_windows_outrank_a_positive_at_minus_infinity():
    scores = torch.tensor([-math.inf, 0.0, -50.0, -math.inf], dtype=torch.float64)
    quality, targets = torch.tensor([0.5, 0.5, 0, 0]).double(), torch.tensor([1, 1, 0, 0])
    for functions in (SEARCHED, dict.fromkeys(FUNCTION_NAMES, "square")):
        assert_agrees(scores, quality, targets, functions)


@given(batch=batches())
@few
def test_a_quality_of_negatives_counts(batch):
    scores, quality, targets = batch
    assert_agrees(scores, (quality + 1) / 65, targets, SEARCHED, block_gradient=False)


@given(batch=batches(), functions=dyadic_functions)
@few
def test_terms_by_index_give_the_same_loss(batch, functions):
    scores, quality, targets = (torch.as_tensor(v) for v in batch)
    scores.requires_grad_(), quality.requires_grad_()
    loss_fn = ParameterizedAPLoss(built(functions), block_gradient=False)
    whole = loss_fn(scores, quality, targets)
    wanted = torch.autograd.grad(whole, (scores, quality))
    positives, negatives = (targets == 1).nonzero().squeeze(1), (targets == 0).nonzero().squeeze(1)
    terms = loss_fn.terms(
        torch.where(targets < 0, -torch.inf, scores), positives, quality[positives], negatives, quality[negatives]
    )
    parts = torch.autograd.grad(sum(terms), (scores, quality), materialize_grads=True)
    torch.testing.assert_close(sum(terms), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts[0], wanted[0], rtol=1e-12, atol=1e-12)
    rated = (targets == 1) | (quality != 0)  # terms() rates the negatives of quality 0 too
    torch.testing.assert_close(parts[1][rated], wanted[1][rated], rtol=1e-12, atol=1e-12)


# Autograd


@BLOCKING
@pytest.mark.parametrize("name", [None, "sigmoid", "square"])
def test_gradcheck(name, block_gradient):
    scores, quality, targets = batch(n=14, p=5, spread=1.5)
    functions = SEARCHED if name is None else dict.fromkeys(FUNCTION_NAMES, name)
    corners = [2 * x - 1 for f in ("rank_numerator", "rank_denominator") for x, _ in SEARCHED[f]]
    far = (scores[:, None] - scores - torch.tensor(corners, dtype=torch.float64)[:, None, None]).abs()
    assert far.amin() > 1e-5, "a difference too near a corner for finite differences; take another seed"
    positives = (targets == 1).nonzero().squeeze(1)
    loss_fn = ParameterizedAPLoss(built(functions), block_gradient=block_gradient)

    def of_both(s, q):
        return sum(loss_fn.terms(s, positives, q))

    # Finite differences cannot see that a denominator is held constant; it does not depend on the qualities.
    scores.requires_grad_(not block_gradient)
    quality = quality[positives].clone().requires_grad_()
    assert torch.autograd.gradcheck(of_both, (scores, quality), eps=1e-7, atol=1e-6)


def test_the_blocked_gradient_is_that_of_a_constant_denominator():
    scores, quality, targets = batch()
    blocked = run(scores, quality, targets, SEARCHED)
    free = run(scores, quality, targets, SEARCHED, block_gradient=False)
    assert torch.equal(blocked[0], free[0])
    assert (blocked[1] - free[1]).abs().max() > 1e-4
    torch.testing.assert_close(blocked[2], free[2], rtol=1e-12, atol=0)


def test_the_gradient_scale_reaches_the_qualities_alone():
    scores, quality, targets = batch()
    quality[(targets == 0).nonzero()[0]] = 0.3
    one, five = (run(scores, quality, targets, SEARCHED, grad_scale=r) for r in (1.0, 5.0))
    assert torch.equal(one[0], five[0])
    assert torch.equal(one[1], five[1])
    torch.testing.assert_close(five[2], 5 * one[2], rtol=1e-12, atol=0)
    assert one[2].abs().max() > 0


# Invariances


@given(batch=batches(grid=False), order=st.randoms(use_true_random=False))
@few
def test_permuting_the_samples_permutes_the_gradients(batch, order):
    scores, quality, targets = (torch.as_tensor(v) for v in batch)
    permutation = list(range(len(scores)))
    order.shuffle(permutation)
    plain = run(scores, quality, targets, SEARCHED, block_gradient=False)
    mixed = run(scores[permutation], quality[permutation], targets[permutation], SEARCHED, block_gradient=False)
    torch.testing.assert_close(mixed[0], plain[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(mixed[1], plain[1][permutation], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(mixed[2], plain[2][permutation], rtol=1e-11, atol=1e-13)


@given(batch=batches(), shift=st.integers(-200, 200))
@few
def test_shifting_all_scores_changes_nothing(batch, shift):
    scores, quality, targets = batch
    plain = run(scores, quality, targets, SEARCHED)
    shifted = run(scores + shift / 4, quality, targets, SEARCHED)
    for a, b in zip(plain, shifted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@given(batch=batches(grid=False))
@few
def test_the_gradients_of_the_scores_add_up_to_nothing(batch):
    _, grad, _ = run(*batch, SEARCHED, block_gradient=False)
    assert abs(float(grad.sum())) < 1e-12


@pytest.mark.parametrize("name", [None, "sigmoid"])
def test_two_runs_give_the_same_bits(name):
    functions = SEARCHED if name is None else dict.fromkeys(FUNCTION_NAMES, name)
    scores, quality, targets = batch(n=20_000, p=200)
    first, second = (run(scores, quality, targets, functions, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_better_ranking_and_better_boxes_lower_the_loss():
    scores, targets = torch.tensor([3.0, 2.0, 1.0, -1.0]), torch.tensor([1, 1, 0, 0])
    quality = torch.tensor([0.9, 0.8, 0.0, 0.0])
    good = run(scores, quality, targets, SEARCHED)[0]
    assert good < run(scores.flip(0), quality, targets, SEARCHED)[0]
    assert good < run(scores, quality / 2, targets, SEARCHED)[0]
    perfect = run(scores * 9, (targets == 1).double(), targets, SEARCHED)[0]
    assert abs(float(perfect)) < 1e-12


# Every gene


@pytest.mark.parametrize("function", FUNCTION_NAMES)
@pytest.mark.parametrize("gene", range(8))
def test_every_gene_changes_the_loss_or_a_gradient(function, gene):
    scores, quality, targets = batch(n=400, p=60)
    genes = encode_points(SEARCHED[function])
    genes[gene] = genes[gene] + 0.05 if genes[gene] < 0.5 else genes[gene] - 0.05
    before = run(scores, quality, targets, SEARCHED)
    after = run(scores, quality, targets, {**SEARCHED, function: decode_points(genes)})
    assert max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)) > 1e-6


def test_the_gene_of_the_gradient_scale_changes_a_gradient():
    before, after = (run(*batch(), SEARCHED, grad_scale=decode_grad_scale(gene)) for gene in (0.5, 0.55))
    assert (before[2] - after[2]).abs().max() > 1e-6


# Nothing to rank, and numbers that are none


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("target", [0, -1])
def test_without_positives_the_loss_is_a_connected_zero(n, target, dtype):
    if target == -1 or n == 0:
        quality = torch.rand(n)
    else:
        quality = torch.zeros(n)
    loss, *grads = run(torch.randn(n), quality, torch.full((n,), target), SEARCHED, dtype)
    assert loss == 0
    for grad in grads:
        assert grad.shape == (n,) and not grad.any()


def test_a_positive_that_nothing_counts_for_has_no_ranking_term():
    late = [(0.0, 0.0), (0.75, 0.0), (1.0, 1.0)]  # 0 at equal scores, so that i does not count itself
    functions = {**SEARCHED, "rank_denominator": late}
    scores, quality, targets = torch.tensor([1.0, 0.9]), torch.tensor([0.5, 0.0]), torch.tensor([1, 0])
    for block_gradient in (True, False):
        assert_agrees(scores, quality, targets, functions, block_gradient=block_gradient)
        loss, grad, _ = run(scores, quality, targets, functions, block_gradient=block_gradient)
        assert math.isfinite(loss) and not grad.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", [None, "sigmoid"])
@pytest.mark.parametrize("who", ["positive", "negative", "no positives", "kept by top_k", "no positives, top_k"])
def test_nan_and_infinity_never_give_a_finite_loss(bad, name, who):
    scores, quality, targets = batch(n=20, p=4)
    functions = SEARCHED if name is None else dict.fromkeys(FUNCTION_NAMES, name)
    scores[targets.nonzero()[1] if who == "positive" else (targets == 0).nonzero()[3]] = bad
    if "no positives" in who:
        targets[:] = 0
        quality[:] = 0
    for top_k in (1, 3) if "top_k" in who else (None,):
        loss = ParameterizedAPLoss(built(functions), top_k=top_k)(scores, quality, targets)
        assert not math.isfinite(loss)


@pytest.mark.parametrize("who", ["positive", "negative", "negative below all windows", "no positives"])
def test_a_quality_that_is_nan_never_gives_a_finite_loss(who):
    scores, quality, targets = batch(n=20, p=4)
    if who == "positive":
        quality[targets.nonzero()[1]] = math.nan
    else:
        index = (targets == 0).nonzero()[3]
        quality[index] = math.nan
        scores[index] -= 100 * (who == "negative below all windows")
    if who == "no positives":
        targets[:] = 0
    assert not math.isfinite(ParameterizedAPLoss(built(SEARCHED))(scores, quality, targets))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_an_ignored_sample_holds_does_not_matter(bad):
    scores, quality, targets = batch(n=20, p=4)
    targets[(targets == 0).nonzero()[:3]] = -1
    clean = run(scores, quality, targets, SEARCHED)
    ignored = targets == -1
    dirty = run(torch.where(ignored, bad, scores), torch.where(ignored, math.nan, quality), targets, SEARCHED)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    without = run(scores[~ignored], quality[~ignored], targets[~ignored], SEARCHED)
    torch.testing.assert_close(clean[0], without[0], rtol=1e-12, atol=0)


# Input


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_targets_of_any_integer_type(dtype):
    scores, quality, targets = batch()
    targets[0] = -1
    assert torch.equal(run(scores, quality, targets.to(dtype), SEARCHED)[1], run(scores, quality, targets, SEARCHED)[1])


def test_targets_may_be_bool_or_unsigned():
    scores, quality, targets = batch()
    want = run(scores, quality, targets, SEARCHED)[1]
    assert torch.equal(run(scores, quality, targets == 1, SEARCHED)[1], want)
    assert torch.equal(run(scores, quality, targets.to(torch.uint8), SEARCHED)[1], want)


# Mixed precision


def test_autocast_changes_nothing():
    scores, quality, targets = batch(n=200, p=20)
    want = run(scores, quality, targets, SEARCHED, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run(scores, quality, targets, SEARCHED, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", ["sigmoid", "sqrt"])
def test_autocast_keeps_the_pairwise_path_in_float32(name):
    scores, quality, targets = batch(n=200, p=20)
    functions = dict.fromkeys(FUNCTION_NAMES, name)
    want = run(scores, quality, targets, functions, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run(scores, quality, targets, functions, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("situation", ["early", "late"])
def test_where_torch_is_to_be_deterministic(situation):
    loss_fn = ParameterizedAPLoss(built(SEARCHED))
    torch.use_deterministic_algorithms(True)
    try:
        for way in (with_forward, with_terms):
            way(loss_fn, draw(20_000, 100, situation, "cpu"))
    finally:
        torch.use_deterministic_algorithms(False)
