"""The three functions of a quality, evaluated together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .functions import PiecewiseLinear, RankingFunction
from .small_arrays import Array, arrays_on


class QualityFunctions:
    """What the loss takes of the qualities q, as three rows:

    0. by how much a sample of quality q weighs more than one of quality 0: sample_quality(0) − sample_quality(q);
    1. positive_weight(q);
    2. what is left to gain by the box: 1 − positive_quality(q).

    A quality that is NaN or ±inf makes its column NaN.
    """

    def __init__(self, functions: Mapping[str, RankingFunction]):
        self._functions = tuple(functions[name] for name in ("sample_quality", "positive_weight", "positive_quality"))
        no_quality = torch.zeros((), dtype=torch.float64, device="cpu")
        self.unrated_weight = 1 - float(self._functions[0].of_quality(no_quality))
        self._tables: dict[torch.device, tuple[Array, Array]] = {}

    def __call__(self, q: Tensor) -> tuple[Array, Array]:
        """(n,) float64 to the (3, n) rows and their (3, n) derivatives."""
        xp = arrays_on(q.device)
        if not all(isinstance(function, PiecewiseLinear) for function in self._functions):
            return tuple(xp.array(rows) for rows in self._one_by_one(q))
        inner, table = self._on(q.device)
        q = xp.array(q)
        of_piece = xp.pick(table, xp.search(inner, q))
        value, slope = of_piece[:3], of_piece[3:6]
        value += slope * (q - of_piece[6])
        return value, slope

    def _one_by_one(self, q: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [function.quality_value_and_slope(q) for function in self._functions]
        value, slope = (torch.stack(rows) for rows in zip(*pairs, strict=True))
        return self._rows(value) + (q - q), slope * self._signs(q.device)

    def _rows(self, value: Tensor) -> Tensor:
        start = value.new_tensor([1 - self.unrated_weight, 0.0, 1.0])[:, None]
        return start + self._signs(value.device) * value

    @staticmethod
    def _signs(device: torch.device) -> Tensor:
        return torch.tensor([[-1.0], [1.0], [-1.0]], dtype=torch.float64, device=device)

    def _on(self, device: torch.device) -> tuple[Array, Array]:
        """Ends of the pieces between all functions' breakpoints, and of each piece its rows, their slopes and a point.
        The first and last lie outside of [0, 1], where nothing changes; an end belongs to the piece on its left,
        so that 1 is inside, and the others lie a hair below their breakpoint."""
        if device not in self._tables:
            x = torch.tensor(sorted({x for f in self._functions for x in f.x}), dtype=torch.float64, device="cpu")
            value, slope = (
                torch.stack(rows) for rows in zip(*(f.value_and_slope(x) for f in self._functions), strict=True)
            )
            slope[:, -1] = 0
            end = torch.nextafter(x, x.new_full((), -1.0))
            end[-1] = 1
            outside = slope.new_zeros(3, 1)
            rows = self._rows(torch.cat([value[:, :1], value], 1))
            slopes = self._signs(x.device) * torch.cat([outside, slope], 1)
            tables = end, torch.cat([rows, slopes, torch.cat([x[:1], x])[None]])
            xp = arrays_on(device)
            self._tables[device] = tuple(xp.array(table.to(device)) for table in tables)
        return self._tables[device]
