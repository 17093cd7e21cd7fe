import math

import pytest
import torch
from cases import decoded_points, dyadic_points, few
from hypothesis import given
from hypothesis import strategies as st
from reference import of_difference, of_quality

from paramap_d2.losses import FUNCTION_NAMES, SUBSTITUTIONS, ParameterizedAPLoss, PiecewiseLinear, RankingFunction

NAMES = sorted(SUBSTITUTIONS)
DIFFERENCES = [-math.inf, -1e30, -1.5, -1.0, -0.75, -0.5, 0.0, 0.25, 0.5, 0.984375, 1.0, 2.0, 1e30, math.inf]
QUALITIES = [-0.5, 0.0, 0.25, 0.5, 0.703125, 1.0, 1.5]


def assert_is(function, spec):
    d, q = torch.tensor(DIFFERENCES, dtype=torch.float64), torch.tensor(QUALITIES, dtype=torch.float64)
    for got, want in (
        ((function.of_difference(d), function.slope_of_difference(d)), [of_difference(spec, x) for x in DIFFERENCES]),
        (function.quality_value_and_slope(q), [of_quality(spec, x) for x in QUALITIES]),
    ):
        value, slope = (torch.tensor(v, dtype=torch.float64) for v in zip(*want, strict=True))
        torch.testing.assert_close(got[0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got[1], slope, rtol=1e-12, atol=1e-12)


@given(points=st.one_of(dyadic_points(), decoded_points()))
@few
def test_piecewise_linear_values_and_slopes(points):
    assert_is(PiecewiseLinear(points), points)


@pytest.mark.parametrize("name", NAMES)
def test_substitutions_values_and_slopes(name):
    assert_is(SUBSTITUTIONS[name](), name)


@pytest.mark.parametrize("name", [*NAMES, None])
def test_the_slope_of_a_quality_is_the_gradient_of_the_value(name):
    function = SUBSTITUTIONS[name]() if name else PiecewiseLinear([(0, 0), (0.3, 0.7), (1, 1)])
    q = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64, requires_grad=True)
    function.of_quality(q).sum().backward()
    torch.testing.assert_close(function.quality_value_and_slope(q)[1], q.grad, rtol=1e-12, atol=0)


def test_the_roots_slope_at_nothing_is_finite():
    slope = SUBSTITUTIONS["sqrt"]().slope(torch.tensor([0.0, 1e-30, 1e-4], dtype=torch.float64))
    assert slope.tolist() == pytest.approx([50, 50, 50])


def test_functions_with_the_same_points_are_equal():
    a, b = (PiecewiseLinear([(0, 0), (0.5, 0.2), (1, 1)]) for _ in range(2))
    assert a == b and hash(a) == hash(b) and a != PiecewiseLinear.identity()
    assert repr(a) == "PiecewiseLinear([(0.0, 0.0), (0.5, 0.2), (1.0, 1.0)])"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least the two end points .* it has 0"),
        ([(0, 0)], "at least the two end points .* it has 1"),
        ([(0.1, 0), (1, 1)], r"control point 0 must be \(0, 0\), not \(0.1, 0\)"),
        ([(0, 0), (0.5, 0.5), (1, 0.9)], r"control point 2, the last, must be \(1, 1\), not \(1, 0.9\)"),
        ([(0, 0), (0.5, 0.2), (0.4, 0.3), (1, 1)], "control point 2 has x = 0.4, not at least 1e-06 above the x = 0.5"),
        ([(0, 0), (0.5, 0.2), (0.5, 0.3), (1, 1)], "control point 2 has x = 0.5"),
        ([(0, 0), (0.5, 0.4), (0.6, 0.3), (1, 1)], "control point 2 has y = 0.3, below the y = 0.4 of point 1"),
        ([(0, 0), (0.5, 1.2), (1, 1)], r"control point 1 is \(0.5, 1.2\), outside of the unit square"),
        ([(0, 0), (math.nan, 0.2), (1, 1)], "control point 1 is .* outside of the unit square"),
        ([(0, 0), (0.5, math.inf), (1, 1)], "control point 1 is"),
        ([(0, 0), (0.5,), (1, 1)], r"control points must be a list of \(x, y\) pairs of numbers"),
        ([(0, 0), ("a", "b"), (1, 1)], "control points must be a list"),
        (None, "control points must be a list"),
        (3, "control points must be a list"),
    ],
)
def test_control_points_out_of_order_are_named(points, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseLinear(points)


class Power(RankingFunction):
    """One of a user's own, with as little as a subclass has to have."""

    corners = (0.0, 1.0)

    def __init__(self, kind):
        self.kind = kind

    def value(self, u):
        return u if self.kind == 1 else u * u

    def slope(self, u):
        return torch.ones_like(u) if self.kind == 1 else 2 * u

    def curvature(self, u):
        return torch.full_like(u, 0.0 if self.kind == 1 else 2.0)


def test_functions_of_ones_own_are_not_taken_for_each_other():
    scores, quality = torch.tensor([0.3, 0.0, 0.4, -0.6]), torch.tensor([0.7, 0.0, 0.0, 0.0])
    targets = torch.tensor([1, 0, 0, 0])
    for kind, name in ((1, "linear"), (2, "square"), (1, "linear")):
        functions = {n: SUBSTITUTIONS["linear"]() for n in FUNCTION_NAMES}
        wanted = {**functions, "rank_numerator": SUBSTITUTIONS[name]()}
        own = {**functions, "rank_numerator": Power(kind)}
        found = [ParameterizedAPLoss(f)(scores, quality, targets).item() for f in (own, wanted)]
        assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_instances_without_parameters_are_alike():
    for name in NAMES:
        assert len({SUBSTITUTIONS[name](), SUBSTITUTIONS[name]()}) == 1
    assert Power(1) != Power(1)
