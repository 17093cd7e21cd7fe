"""The loss as DESIGN writes it: a double loop over positives and samples in plain Python floats.

Slow, obvious and independent of the code under test: its own functions, values, slopes and gradients.
A function is given as a list of (x, y) control points or as the name of a substitution.
"""

import math
from bisect import bisect_right
from typing import NamedTuple

INF = math.inf


class Result(NamedTuple):
    loss: float
    grad_scores: list[float]
    grad_quality: list[float]


def value(spec, u):
    """f(u) for u in [0, 1]."""
    if spec == "sqrt":
        return math.sqrt(u)
    if spec == "square":
        return u * u
    if spec == "linear":
        return u
    piece = bisect_right([x for x, _ in spec[1:-1]], u)
    (x0, y0), (x1, y1) = spec[piece : piece + 2]
    return y0 + (y1 - y0) / (x1 - x0) * (u - x0)


def slope(spec, u):
    """f'(u) for u in [0, 1]; at a corner that of the piece to the right, at 1 that of the last."""
    if spec == "sqrt":
        return 0.5 / math.sqrt(max(u, 1e-4))
    if spec == "square":
        return 2 * u
    if spec == "linear":
        return 1.0
    piece = bisect_right([x for x, _ in spec[1:-1]], u)
    (x0, y0), (x1, y1) = spec[piece : piece + 2]
    return (y1 - y0) / (x1 - x0)


def sigmoid(d):
    return 1 / (1 + math.exp(-d)) if d > -700 else 0.0


def of_difference(spec, d):
    """Value and slope in the difference d of two scores."""
    if spec == "sigmoid":
        return sigmoid(d), sigmoid(d) * sigmoid(-d)
    u = min(max(d / 2 + 0.5, 0.0), 1.0)
    return value(spec, u), slope(spec, u) / 2 if -1 <= d < 1 else 0.0


def of_quality(spec, q):
    if spec == "sigmoid":
        return sigmoid(2 * q - 1), 2 * sigmoid(2 * q - 1) * sigmoid(1 - 2 * q)
    u = min(max(q, 0.0), 1.0)
    return value(spec, u), slope(spec, u) if 0 <= q <= 1 else 0.0


def reference(
    scores, quality, targets, functions, block_gradient=True, top_k=None, grad_scale=1.0, empty_denominator=1e-6
) -> Result:
    """Loss and both gradients, from lists of numbers.

    A sample at −inf adds nothing to any sum, and every other sample outranks it fully. A negative of quality 0
    receives no gradient for it, and a positive with no detection counted at or above it has no ranking term.
    """
    scores, quality, targets = ([float(v) for v in values] for values in (scores, quality, targets))
    n = len(scores)
    samples = [j for j in range(n) if targets[j] != -1 and scores[j] != -INF]
    positives = [i for i in range(n) if targets[i] == 1]
    if top_k is not None:
        ranked = sorted(range(n), key=lambda j: (INF if targets[j] == -1 else -scores[j], j))
        kept = set(ranked[:top_k])
        samples = [j for j in samples if j in kept]  # every positive keeps its term
    grad_scores, grad_quality = [0.0] * n, [0.0] * n
    if not positives:
        return Result(0.0, grad_scores, grad_quality)

    loss = 0.0
    weight = {j: 1 - of_quality(functions["sample_quality"], quality[j])[0] for j in samples}
    for i in positives:
        pairs = [
            (
                j,
                of_difference(functions["rank_numerator"], scores[j] - scores[i]),
                of_difference(functions["rank_denominator"], scores[j] - scores[i]),
            )
            for j in samples
        ]
        numerator = math.fsum(weight[j] * f for j, (f, _), _ in pairs)
        denominator = math.fsum(g for _, _, (g, _) in pairs)
        share, share_slope = of_quality(functions["positive_weight"], quality[i])
        reward, reward_slope = of_quality(functions["positive_quality"], quality[i])
        counted = denominator > empty_denominator
        error = numerator / denominator if counted else 0.0
        loss += (1 - reward + share * error) / len(positives)
        grad_quality[i] += (share_slope * error - reward_slope) / len(positives)
        if not counted:
            continue
        to_numerator = share / denominator / len(positives)
        to_denominator = 0.0 if block_gradient else -share * numerator / denominator**2 / len(positives)
        for j, (f, f_slope), (_, g_slope) in pairs:
            change = to_numerator * weight[j] * f_slope + to_denominator * g_slope
            grad_scores[j] += change
            grad_scores[i] -= change
            if targets[j] == 1 or quality[j] != 0:
                grad_quality[j] -= to_numerator * f * of_quality(functions["sample_quality"], quality[j])[1]
    return Result(loss, grad_scores, [grad_scale * g for g in grad_quality])
