"""Genes in [0, 1] to control points and back, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

GAP = 1e-3
"""Smallest distance in x between decoded control points, so that every gene from 0 to 1 decodes to a function."""

Points = list[tuple[float, float]]


def decode_points(genes: Sequence[float]) -> Points:
    """Control points of a function from 2K genes (x and y of the first interior point, of the second, …).

    p_0 = (0, 0), p_k = p_{k−1} + θ_k ∘ (1 − p_{k−1}), and (1, 1) last; each x is kept at least ``GAP`` from its
    neighbours'.

    Raises:
        ValueError: an odd number of genes, or a gene outside [0, 1].
    """
    if len(genes) % 2:
        raise ValueError(f"a function takes an even number of genes, not {len(genes)}")
    for i, gene in enumerate(genes):
        if not 0 <= gene <= 1:
            raise ValueError(f"gene {i} is {gene}, outside [0, 1]")
    count = len(genes) // 2
    points = [(0.0, 0.0)]
    for k in range(count):
        (x, y), (tx, ty) = points[-1], genes[2 * k : 2 * k + 2]
        free = 1 - (count - k) * GAP  # room for the points to come
        points.append((min(max(x + tx * (1 - x), x + GAP), free), y + ty * (1 - y)))
    points.append((1.0, 1.0))
    return points


def encode_points(points: Sequence[Sequence[float]], count: int | None = None) -> list[float]:
    """The genes that decode to these control points: the inverse of :func:`decode_points`.

    With ``count`` interior points asked for and fewer given, points are added on the line in the middle of the widest
    pieces, which leaves the function as it is.

    Raises:
        ValueError: more interior points than ``count``.
    """
    points = [(float(x), float(y)) for x, y in points]
    if count is not None:
        if len(points) - 2 > count:
            raise ValueError(f"{len(points) - 2} interior control points do not fit into {count}")
        while len(points) - 2 < count:
            left = max(range(len(points) - 1), key=lambda i: points[i + 1][0] - points[i][0])
            (x0, y0), (x1, y1) = points[left : left + 2]
            points.insert(left + 1, ((x0 + x1) / 2, (y0 + y1) / 2))
    genes = []
    for before, point in zip(points, points[1:-1], strict=False):
        for low, value in zip(before, point, strict=True):
            genes.append(min(max((value - low) / (1 - low), 0.0), 1.0) if low < 1 else 0.0)
    return genes


def identity_genes(count: int) -> list[float]:
    """2·count genes of the identity with evenly spaced points: 1/(K+1), 1/(K+1), 1/K, 1/K, …, 1/2, 1/2."""
    return [1 / (count + 1 - k) for k in range(count) for _ in range(2)]


def decode_grad_scale(gene: float) -> float:
    """10^(2θ − 1): 0.1 for gene 0, 1 for 0.5, 10 for 1."""
    if not 0 <= gene <= 1:
        raise ValueError(f"the gradient scale's gene is {gene}, outside [0, 1]")
    return 10 ** (2 * gene - 1)


def encode_grad_scale(scale: float) -> float:
    """The gene of a gradient scale; scales outside [0.1, 10] take the nearest end."""
    return min(max((math.log10(scale) + 1) / 2, 0.0), 1.0)
