"""The Parameterized AP Loss (Tao et al., "Searching Parameterized AP Loss for Object Detection", NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .functions import FUNCTION_NAMES, PiecewiseLinear, RankingFunction
from .pairwise import pairwise_sums
from .ranking_sums import SCORE_LIMIT, ranking_sums

EMPTY_DENOMINATOR = 1e-6
"""A positive whose ``rank_denominator`` sum is at or below this has no detection counted at or above it, itself
included (the function is 0 up to equal scores): it has no precision, and its ranking term is 0."""


class APLossTerms(NamedTuple):
    """The two terms of the loss, scalars; the loss is their sum."""

    ranking: Tensor
    localization: Tensor


class ParameterizedAPLoss(nn.Module):
    """Average Precision of one head's samples, its non-differentiable parts replaced by five functions::

        L = 1/|P| · Σ_{i∈P} [ 1 − positive_quality(q_i)
                              + positive_weight(q_i) · Σ_j rank_numerator(s_j − s_i) · (1 − sample_quality(q_j))
                                                      / Σ_j rank_denominator(s_j − s_i) ]

    with both sums over all samples that are not ignored.
    Piecewise-linear ranking functions take O((N + P) log P) time; others take N·P, in bounded memory.

    Args:
        functions: all five, by name (:data:`FUNCTION_NAMES`).
        block_gradient: whether ``rank_denominator`` is held constant in the backward pass (the paper's Table 1).
        top_k: keep only the k samples of highest score, as the released code does with 100,000; equal scores are kept
            in the order of their indices. None keeps all.
        grad_scale: factor on the gradient that reaches the qualities, and with them the box branch; the value of the
            loss does not change.

    Raises:
        ValueError: a function is missing, unknown or not a :class:`RankingFunction`; ``top_k`` or ``grad_scale`` not
            positive.
    """

    def __init__(
        self,
        functions: Mapping[str, RankingFunction],
        block_gradient: bool = True,
        top_k: int | None = None,
        grad_scale: float = 1.0,
    ):
        super().__init__()
        self.functions = checked_functions(functions)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be None or at least 1, not {top_k}")
        if not 0 < grad_scale < float("inf"):
            raise ValueError(f"grad_scale must be a positive number, not {grad_scale}")
        self.block_gradient = block_gradient
        self.top_k = top_k
        self.grad_scale = float(grad_scale)
        no_quality = torch.zeros((), dtype=torch.float64, device="cpu")
        self.unrated_weight = 1 - float(self.functions["sample_quality"].of_quality(no_quality))

    def extra_repr(self) -> str:
        shapes = "\n".join(f"{name}={function!r}" for name, function in self.functions.items())
        return f"{shapes}\nblock_gradient={self.block_gradient}, top_k={self.top_k}, grad_scale={self.grad_scale:g}"

    def forward(self, scores: Tensor, quality: Tensor, targets: Tensor) -> Tensor:
        """
        Args:
            scores: (N,) logits, any floating type; half precision is computed in float32. −inf lies below every
                window. NaN or +inf makes the loss NaN, so that a training loop's own check stops the run.
            quality: (N,) in [0, 1], how well each sample's box fits its object; 0 where the sample is no positive.
                NaN or ±inf makes the loss NaN.
            targets: (N,) integers: 1 positive, 0 negative, −1 ignored.

        Returns:
            A scalar of the scores' type (float32 for half precision). Without a positive it is 0 and still connected
            to scores and quality.

        Raises:
            ValueError: shapes or types do not fit, or a target is none of the three. On a GPU the targets' values are
                checked by a device-side assertion, without waiting for it.
        """
        some_ignored = _check(scores, quality, targets)
        targets = targets.to(torch.int8)  # an eighth to read, in every comparison
        positives = targets.clamp(min=0).nonzero().squeeze(1)
        rated: tuple[Tensor, ...] = ()
        if len(quality) and quality.detach().index_fill(0, positives, 0).abs().amax() != 0:
            negatives = ((quality.detach() != 0) & (targets == 0)).nonzero().squeeze(1)
            rated = negatives, quality.index_select(0, negatives)
        if some_ignored:
            scores = _Ignoring.apply(scores, targets < 0)
        terms = self.terms(scores, positives, quality.index_select(0, positives), *rated)
        return terms.ranking + terms.localization

    def terms(
        self,
        scores: Tensor,
        positives: Tensor,
        quality: Tensor,
        rated_negatives: Tensor | None = None,
        negative_quality: Tensor | None = None,
    ) -> APLossTerms:
        """The loss from positives by index, so that a head need not make an (N,) tensor of qualities.

        Args:
            scores: (N,) logits; ignored samples stand at −inf.
            positives: (P,) int64 indices into scores.
            quality: (P,) in [0, 1], theirs.
            rated_negatives: (E,) int64 indices of negatives with a quality other than 0, if there are any.
            negative_quality: (E,) theirs.
        """
        dtype = scores.dtype if scores.dtype == torch.float64 else torch.float32
        scores = scores.to(dtype)
        peak = scores.detach().amax().clamp(min=0) if len(scores) else scores.new_zeros(())
        given = [quality] if negative_quality is None else [quality, negative_quality]
        probe = peak + sum(one.detach().sum(dtype=torch.float64) for one in given)
        poison = (probe - probe).to(dtype)  # NaN where a score is NaN or +inf or a quality no finite number, else 0
        if self.top_k is not None and self.top_k < len(scores):
            kept = _highest(scores.detach(), self.top_k)
            scores = torch.where(kept, scores, -torch.inf)
            positives, quality = positives[kept[positives]], quality[kept[positives]]
        if len(positives) == 0:
            nothing = scores[:0].sum() + quality[:0].sum().to(dtype) + poison
            return APLossTerms(nothing, nothing.detach())

        f = self.functions
        rated = positives if rated_negatives is None else torch.cat([positives, rated_negatives])
        rated_weight, weight, localization = _OfQualities.apply(quality, negative_quality, self.grad_scale, f)
        exact = self._exact(peak, scores, positives)
        numerator, denominator = (ranking_sums if exact is not False else pairwise_sums)(
            scores,
            positives,
            rated,
            rated_weight,
            self.unrated_weight,
            f["rank_numerator"],
            f["rank_denominator"],
        )
        if self.block_gradient:
            denominator = denominator.detach()
        ranking = _MeanQuotient.apply(weight, numerator, denominator)
        if isinstance(exact, Tensor):
            ranking = torch.where(exact, ranking, torch.nan)
        return APLossTerms(ranking.to(dtype) + poison, localization.to(dtype))

    def _exact(self, peak: Tensor, scores: Tensor, positives: Tensor) -> bool | Tensor:
        """Whether the fast sums apply. On a GPU the answer for this batch's scores is a tensor that is not waited for:
        out of their range the loss becomes NaN there."""
        ranking = self.functions["rank_numerator"], self.functions["rank_denominator"]
        if not all(isinstance(function, PiecewiseLinear) for function in ranking):
            return False
        within = (peak < SCORE_LIMIT) & (scores.detach().take(positives).amin() > -SCORE_LIMIT)
        return bool(within) if scores.device.type == "cpu" else within


def checked_functions(functions: Mapping[str, RankingFunction]) -> dict[str, RankingFunction]:
    """All five functions, in the order of :data:`FUNCTION_NAMES`.

    Raises:
        ValueError: names the function that is missing, unknown or of a wrong type.
    """
    for name in functions:
        if name not in FUNCTION_NAMES:
            raise ValueError(f"unknown function {name!r}; the five are {', '.join(FUNCTION_NAMES)}")
    for name in FUNCTION_NAMES:
        if name not in functions:
            raise ValueError(f"function {name!r} is missing; the five are {', '.join(FUNCTION_NAMES)}")
        if not isinstance(functions[name], RankingFunction):
            raise ValueError(f"function {name!r} is a {type(functions[name]).__name__}, not a RankingFunction")
    return {name: functions[name] for name in FUNCTION_NAMES}


def _check(scores: Tensor, quality: Tensor, targets: Tensor) -> bool:
    """Whether a sample may be ignored; on a GPU that is not waited for, and True."""
    for name, tensor in (("scores", scores), ("quality", quality), ("targets", targets)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if tensor.dim() != 1:
            raise ValueError(f"{name} must have one dimension, not shape {tuple(tensor.shape)}")
        if len(tensor) != len(scores):
            raise ValueError(f"{name} has {len(tensor)} entries, scores has {len(scores)}")
        if tensor.device != scores.device:
            raise ValueError(f"{name} is on {tensor.device}, scores on {scores.device}")
    for name, tensor in (("scores", scores), ("quality", quality)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating type, not {tensor.dtype}")
    if targets.is_floating_point() or targets.is_complex():
        raise ValueError(f"targets must be integers (1 positive, 0 negative, -1 ignored), not {targets.dtype}")
    if targets.dtype == torch.bool or len(targets) == 0:
        return False
    low, high = (end.long() for end in targets.aminmax())
    if targets.device.type != "cpu":
        torch._assert_async((low >= -1) & (high <= 1), "targets must be 1, 0 or -1")
    elif low < -1 or high > 1:
        index = int((targets.long().abs() > 1).nonzero()[0])
        raise ValueError(f"targets must be 1, 0 or -1; targets[{index}] is {int(targets[index])}")
    return targets.device.type != "cpu" or bool(low < 0)


def _highest(scores: Tensor, k: int) -> Tensor:
    """(N,) bool: the k highest scores, of equal ones the first."""
    threshold = scores.topk(k).values.amin()
    above, equal = scores > threshold, scores == threshold
    return above | (equal & (equal.cumsum(0) <= k - above.sum()))


class _Ignoring(torch.autograd.Function):
    """Scores with the ignored ones at −inf, where a sample is the same to every sum as one that is not there. There the
    gradient is 0 by itself."""

    @staticmethod
    def forward(ctx, scores, ignored):
        return scores.masked_fill(ignored, -torch.inf)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


# Two functions with a backward pass of their own, for what autograd would record as some thirty small operations.


class _OfQualities(torch.autograd.Function):
    """From the (P,) qualities of the positives and the (E,) ones of other samples, or None: the (P + E,) weights
    1 − sample_quality, the (P,) weights positive_weight, and the mean of 1 − positive_quality over the positives; all
    float64. The gradient of the qualities is scaled."""

    @staticmethod
    def forward(ctx, quality, others, grad_scale, functions):
        q = (quality if others is None else torch.cat([quality, others])).double()
        own = q[: len(quality)]
        sample, of_sample = functions["sample_quality"].quality_value_and_slope(q)
        weight, of_weight = functions["positive_weight"].quality_value_and_slope(own)
        reward, of_reward = functions["positive_quality"].quality_value_and_slope(own)
        ctx.save_for_backward(of_sample, of_weight, of_reward)
        ctx.grad_scale = grad_scale
        ctx.dtypes = quality.dtype, None if others is None else others.dtype
        return 1 - sample, weight, 1 - reward.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_sample, grad_weight, grad_localization):
        of_sample, of_weight, of_reward = ctx.saved_tensors
        positives = len(of_weight)
        grad = grad_sample * of_sample * -ctx.grad_scale
        own = of_weight * grad_weight - of_reward * (grad_localization / positives)
        grad[:positives] += own * ctx.grad_scale
        dtype, of_others = ctx.dtypes
        others = None if of_others is None else grad[positives:].to(of_others)
        return grad[:positives].to(dtype), others, None, None


class _MeanQuotient(torch.autograd.Function):
    """mean(weight · numerator / denominator) of three (P,) float64 tensors, with 0 for a quotient whose denominator is
    empty."""

    @staticmethod
    def forward(ctx, weight, numerator, denominator):
        # Masked before the division: a quotient that is not used must not reach the gradient as NaN.
        denominator = torch.where(denominator > EMPTY_DENOMINATOR, denominator, torch.inf)
        quotient = numerator / denominator
        ctx.save_for_backward(weight, quotient, denominator)
        return weight.dot(quotient) / len(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        weight, quotient, denominator = ctx.saved_tensors
        grad = grad / len(weight)
        grad_numerator = grad * weight / denominator
        grad_denominator = -grad_numerator * quotient if ctx.needs_input_grad[2] else None
        return grad * quotient, grad_numerator, grad_denominator
