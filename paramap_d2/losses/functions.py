"""The shapes that the five functions of the loss can take.

A function of the loss is applied in two ways: to a *difference* of two scores (``rank_numerator``,
``rank_denominator``) and to a *quality* in [0, 1] (the other three). Each class here gives values and slopes for
both, because the sums over all pairs of samples have a backward pass of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FUNCTION_NAMES = (
    "rank_numerator",
    "sample_quality",
    "positive_weight",
    "positive_quality",
    "rank_denominator",
)
"""The five functions of a head, in the order in which a genome holds them."""

MIN_GAP = 1e-6
"""Two control points closer than this in x are refused: the slope between them would be lost in rounding."""


class RankingFunction:
    """One of the five functions. Subclasses give value and slope on the unit interval.

    The argument u of :meth:`value` and :meth:`slope` is a tensor of any shape with entries in [0, 1]; slopes at a
    corner are those of the piece to its right.
    """

    #: Differences below -1 give exactly 0 and above 1 exactly 1, with slope 0.
    saturates = True

    #: Where pieces meet, 0 and 1 among them, for a function that saturates and is linear or quadratic between; else
    #: None.
    corners: tuple[float, ...] | None = None

    def value(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def curvature(self, u: Tensor) -> Tensor:
        """The second derivative, for a function with ``corners``; at one of them that of the piece to its right."""
        return torch.zeros_like(u)

    def of_difference(self, d: Tensor) -> Tensor:
        """f(clamp(d/2 + 1/2, 0, 1)) for score differences d of any shape; ±inf are allowed."""
        return self.value(_clamped(d))

    def slope_of_difference(self, d: Tensor) -> Tensor:
        """The derivative of :meth:`of_difference`; 0 outside of -1 <= d < 1."""
        # The clamp's gradient, but for -1 itself, which counts. One pass: comparing and choosing cost as much as ten.
        return torch.ops.aten.hardtanh_backward(self.slope(_clamped(d)) / 2, d, -1 - torch.finfo(d.dtype).eps, 1)

    def of_quality(self, q: Tensor) -> Tensor:
        """f(q) for qualities q of any shape in [0, 1] (values outside are clamped)."""
        return self.quality_value_and_slope(q)[0]

    def value_and_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(u), self.slope(u)

    def quality_value_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`of_quality` and its derivative, which is 0 outside of [0, 1]."""
        u = q.clamp(0, 1)
        value, slope = self.value_and_slope(u)
        return value, slope * (u == q)

    def to_json(self) -> str | list[list[float]]:
        """What stands for this function in a loss file."""
        raise NotImplementedError


def _clamped(d: Tensor) -> Tensor:
    """Differences in [-1, 1] as arguments in [0, 1]."""
    return (d / 2).add_(0.5).clamp_(0, 1)


class PiecewiseLinear(RankingFunction):
    """A monotone function on [0, 1] that is linear between control points.

    Args:
        points: (x, y) pairs, (0, 0) first and (1, 1) last, x strictly increasing (by at least 1e-6), y non-decreasing.

    Raises:
        ValueError: names the first control point that breaks a rule.
    """

    def __init__(self, points: Sequence[Sequence[float]]):
        self.points = _checked(points)
        self._hash = hash(self.points)  # asked for in every step
        self.x = self.corners = tuple(x for x, _ in self.points)
        self.y = tuple(y for _, y in self.points)
        self.slopes = tuple(
            (y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False)
        )
        self._tensors: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    @classmethod
    def identity(cls) -> PiecewiseLinear:
        return cls([(0.0, 0.0), (1.0, 1.0)])

    def _as_tensors(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inner x, all x, all y and slopes, in u's type and on its device; kept, so that a step copies nothing."""
        key = u.dtype, u.device
        if key not in self._tensors:
            self._tensors[key] = tuple(
                torch.tensor(v, dtype=u.dtype, device=u.device) for v in (self.x[1:-1], self.x, self.y, self.slopes)
            )
        return self._tensors[key]

    def value(self, u: Tensor) -> Tensor:
        return self.value_and_slope(u)[0]

    def slope(self, u: Tensor) -> Tensor:
        inner, _, _, slopes = self._as_tensors(u)
        return slopes.take(torch.bucketize(u, inner, right=True))

    def value_and_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        inner, x, y, slopes = self._as_tensors(u)
        piece = torch.bucketize(u, inner, right=True)
        slope = slopes.take(piece)
        return y.take(piece) + slope * (u - x.take(piece)), slope

    def to_json(self) -> list[list[float]]:
        return [list(p) for p in self.points]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PiecewiseLinear) and self.points == other.points

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"PiecewiseLinear({[tuple(round(v, 4) for v in p) for p in self.points]})"


def _checked(points: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    try:
        pairs = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError):
        raise ValueError(f"control points must be a list of (x, y) pairs of numbers, not {points!r}") from None
    if len(pairs) < 2:
        raise ValueError(f"a function needs at least the two end points (0, 0) and (1, 1); it has {len(pairs)}")
    for i, (x, y) in enumerate(pairs):
        if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"control point {i} is ({x:g}, {y:g}), outside of the unit square")
    if pairs[0] != (0.0, 0.0):
        raise ValueError(f"control point 0 must be (0, 0), not ({pairs[0][0]:g}, {pairs[0][1]:g})")
    if pairs[-1] != (1.0, 1.0):
        i, (x, y) = len(pairs) - 1, pairs[-1]
        raise ValueError(f"control point {i}, the last, must be (1, 1), not ({x:g}, {y:g})")
    for i, ((x0, y0), (x1, y1)) in enumerate(zip(pairs, pairs[1:], strict=False), start=1):
        if x1 - x0 < MIN_GAP:
            raise ValueError(
                f"control point {i} has x = {x1:g}, not at least {MIN_GAP:g} above the x = {x0:g} of point {i - 1}"
            )
        if y1 < y0:
            raise ValueError(f"control point {i} has y = {y1:g}, below the y = {y0:g} of point {i - 1}")
    return pairs


class _WithoutParameters(RankingFunction):
    """Of which all instances are alike. Others are equal where they are one, or say themselves when."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class Square(_WithoutParameters):
    """u² of the clamped difference, q² of a quality (the paper's Table 3)."""

    corners = (0.0, 1.0)

    def value(self, u: Tensor) -> Tensor:
        return u * u

    def slope(self, u: Tensor) -> Tensor:
        return 2 * u

    def curvature(self, u: Tensor) -> Tensor:
        return torch.full_like(u, 2)

    def to_json(self) -> str:
        return "square"


class Sqrt(_WithoutParameters):
    """√u of the clamped difference, √q of a quality (Table 3).

    The root's slope is infinite at 0: below u = 1e-4 the slope used in the backward pass is that at 1e-4, 50.
    """

    def value(self, u: Tensor) -> Tensor:
        return u * u.clamp(min=1e-30).rsqrt()  # MKL's root takes ten times as long where there are zeros

    def slope(self, u: Tensor) -> Tensor:
        return u.clamp(min=1e-4).rsqrt_().div_(2)

    def to_json(self) -> str:
        return "sqrt"


class Sigmoid(_WithoutParameters):
    """σ(d) of the difference, which is not clamped, and σ(2q − 1) of a quality (Table 3)."""

    saturates = False

    def of_difference(self, d: Tensor) -> Tensor:
        return d.sigmoid()

    def slope_of_difference(self, d: Tensor) -> Tensor:
        s = d.sigmoid()
        return s.addcmul(s, s, value=-1)

    def quality_value_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        s = (2 * q - 1).sigmoid()
        return s, 2 * s * (1 - s)

    def to_json(self) -> str:
        return "sigmoid"


SUBSTITUTIONS = {
    "sigmoid": Sigmoid,
    "sqrt": Sqrt,
    "linear": PiecewiseLinear.identity,
    "square": Square,
}
"""The handcrafted substitutions of the paper's Table 3, by name."""
