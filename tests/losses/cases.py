"""Batches and functions for the tests of the loss, drawn by hypothesis."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from reference import reference

from paramap_d2.losses import FUNCTION_NAMES, SUBSTITUTIONS, ParameterizedAPLoss, PiecewiseLinear, load_loss
from paramap_d2.losses.encoding import decode_points

few = settings(max_examples=60, derandomize=True, database=None)

GRID = 32  # scores on multiples of 1/32 meet breakpoints at multiples of 1/64 of the unit interval exactly
HAIR = 2.0**-18  # twice the x-distance of the nearly vertical pieces, 2^-19


@st.composite
def dyadic_points(draw, count=None):
    """Control points that scores on the grid meet exactly, some with flat and some with nearly vertical pieces."""
    count = count or draw(st.integers(1, 8))
    xs = sorted(draw(st.sets(st.integers(1, 63), min_size=count, max_size=count)))
    ys = sorted(draw(st.lists(st.integers(0, 16), min_size=count, max_size=count)))
    points = [(x / 64, y / 16) for x, y in zip(xs, ys, strict=True)]
    if count > 1 and draw(st.booleans()):
        k = draw(st.integers(1, count - 1))
        points[k] = (points[k - 1][0] + HAIR / 2, points[k][1])
    return [(0.0, 0.0), *points, (1.0, 1.0)]


@st.composite
def decoded_points(draw, count=None):
    count = count or draw(st.integers(1, 8))
    gene = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
    return decode_points(draw(st.lists(gene, min_size=2 * count, max_size=2 * count)))


dyadic_functions = st.fixed_dictionaries({name: dyadic_points() for name in FUNCTION_NAMES})
any_functions = st.fixed_dictionaries({name: st.one_of(dyadic_points(), decoded_points()) for name in FUNCTION_NAMES})


@st.composite
def batches(draw, grid=True, spread=3.0, max_size=24):
    """Scores, qualities, targets as numpy arrays: on the grid (ties, corners hit exactly) or anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, max_size))
    scores = rng.uniform(-spread, spread, size)
    if grid:
        hairs = rng.choice([0, 0, 0, HAIR, -HAIR, HAIR / 2], size)
        scores = np.round(scores * draw(st.sampled_from([1, 2, GRID]))) / GRID + hairs
    kind = draw(st.sampled_from(["some", "all", "one", "none", "some with ignored"]))
    targets = {
        "some": rng.random(size) < 0.3,
        "all": np.ones(size),
        "one": np.arange(size) == size // 2,
        "none": np.zeros(size),
        "some with ignored": rng.choice([-1, 0, 1], size),
    }[kind].astype(np.int64)
    quality = rng.integers(0, 65, size) / 64 if grid else rng.random(size)
    if draw(st.booleans()):
        quality = np.where(targets == 1, quality, 0)
    return scores, quality, targets


def built(functions):
    """The code's functions of the reference's."""
    return {name: SUBSTITUTIONS[f]() if isinstance(f, str) else PiecewiseLinear(f) for name, f in functions.items()}


def preset(name="retinanet-coco", head="dense"):
    return {key: list(f.points) for key, f in load_loss(name)[head].functions.items()}


SEARCHED = preset()


def run(scores, quality, targets, functions, dtype=torch.float64, **options):
    """Loss and gradients of the code under test, as float64 tensors."""
    scores = torch.as_tensor(scores).to(dtype).clone().requires_grad_()
    quality = torch.as_tensor(quality).to(dtype).clone().requires_grad_()
    loss = ParameterizedAPLoss(built(functions), **options)(scores, quality, torch.as_tensor(targets))
    loss.backward()
    return loss.detach().double(), scores.grad.double(), quality.grad.double()


def _ranking(functions):
    built_functions = built(functions)
    ranking = [built_functions["rank_numerator"], built_functions["rank_denominator"]]
    return [f if isinstance(f, PiecewiseLinear) else PiecewiseLinear.identity() for f in ranking]


def assert_agrees(scores, quality, targets, functions, dtype=torch.float64, tolerance=1e-9, **options):
    """Loss and both gradients against the double loop, which sees the numbers as the dtype rounded them."""
    seen = [torch.as_tensor(v).to(dtype).double().tolist() for v in (scores, quality)]
    want = reference(*seen, list(targets), functions, **options)
    loss, *grads = run(scores, quality, targets, functions, dtype, **options)
    # Sums of slopes and areas are taken in float64, and a nearly vertical piece takes part with its slope.
    rounding = 1e-14 * max(f.slope(torch.tensor(f.x).double()).max() for f in _ranking(functions))
    assert abs(float(loss) - want.loss) <= tolerance * max(1.0, abs(want.loss)) + rounding
    for what, got, expected in zip(("scores", "quality"), grads, want[1:], strict=True):
        expected = torch.tensor(expected, dtype=torch.float64)
        scale = max(1e-3, float(expected.abs().max()))
        wrong = (got - expected).abs() > tolerance * scale + rounding
        assert not wrong.any(), (what, got[wrong], expected[wrong], wrong.nonzero().flatten())
