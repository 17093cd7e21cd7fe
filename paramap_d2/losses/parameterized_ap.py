"""The Parameterized AP Loss (Tao et al., "Searching Parameterized AP Loss for Object Detection", NeurIPS 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .functions import FUNCTION_NAMES, RankingFunction
from .global_batch import ranked_with
from .pairwise import PairwiseSums, PairwiseSumsOfEach
from .quality_functions import QualityFunctions
from .ranking_loss import APLossTerms, RankingLoss
from .ranking_sums import SCORE_LIMIT, BucketSums
from .score_range import highest, nan_unless
from .small_arrays import arrays_on

EMPTY_DENOMINATOR = 1e-6
"""A positive whose ``rank_denominator`` sum is at or below this has no detection counted at or above it, itself
included (the function is 0 up to equal scores): it has no precision, and its ranking term is 0."""


class ParameterizedAPLoss(RankingLoss):
    """Average Precision of one head's samples, its non-differentiable parts replaced by five functions::

        L = 1/|P| · Σ_{i∈P} [ 1 − positive_quality(q_i)
                              + positive_weight(q_i) · Σ_j rank_numerator(s_j − s_i) · (1 − sample_quality(q_j))
                                                      / Σ_j rank_denominator(s_j − s_i) ]

    with both sums over all samples that are not ignored.
    Ranking functions that are linear or quadratic in pieces take O((N + P) log P) time; others take N·P, in bounded
    memory.

    Args:
        functions: all five, by name (:data:`FUNCTION_NAMES`).
        block_gradient: whether ``rank_denominator`` is held constant in the backward pass (the paper's Table 1).
        top_k: the sums run over the k samples of highest score alone, as in the released code with 100,000; equal
            scores are taken in the order of their indices. All positives keep their terms. None takes all samples.
        grad_scale: factor on the gradient that reaches the qualities, and with them the box branch; the value of the
            loss does not change.
        global_batch: where several processes train, rank the samples of all of them together: each returns the loss
            of one process with all their batches, and gradients that, averaged over the processes (as
            DistributedDataParallel does), are that loss's. Every process must then make the same calls, without
            positives or samples too. It sends what the positives weigh, never the samples. Only while gradients are
            enabled: a loss for validation is that of its own process.

    Raises:
        ValueError: a function is missing, unknown or not a :class:`RankingFunction`; ``top_k`` or ``grad_scale`` not
            positive; ``top_k`` with ``global_batch``.
    """

    def __init__(
        self,
        functions: Mapping[str, RankingFunction],
        block_gradient: bool = True,
        top_k: int | None = None,
        grad_scale: float = 1.0,
        global_batch: bool = False,
    ):
        super().__init__(grad_scale)
        self.functions = checked_functions(functions)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be None or at least 1, not {top_k}")
        if top_k is not None and global_batch:
            raise ValueError("top_k and global_batch exclude each other: the k highest are those of one process")
        self.block_gradient = block_gradient
        self.top_k = top_k
        self.global_batch = global_batch
        self._of_qualities = QualityFunctions(self.functions)
        ranking = self.functions["rank_numerator"], self.functions["rank_denominator"]
        self._exact = all(function.corners is not None for function in ranking)

    def extra_repr(self) -> str:
        shapes = "\n".join(f"{name}={function!r}" for name, function in self.functions.items())
        options = f"block_gradient={self.block_gradient}, top_k={self.top_k}, grad_scale={self.grad_scale:g}"
        return f"{shapes}\n{options}, global_batch={self.global_batch}"

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
            scores: (N,) logits; ignored samples stand at −inf. Or (L, N), as in :meth:`terms_of_each`.
            positives: (P,) int64 indices into scores.
            quality: (P,) in [0, 1], theirs.
            rated_negatives: (E,) int64 indices of negatives with a quality other than 0, if there are any.
            negative_quality: (E,) theirs.
        """
        scores = scores.to(scores.dtype if scores.dtype == torch.float64 else torch.float32)
        samples = scores.detach()
        if scores.dim() > 1:
            positives = positives + torch.arange(len(scores), device=scores.device)[:, None] * scores.shape[1]
        rated = positives.flatten()
        anchor = samples.flatten().index_select(0, rated).double().view(positives.shape)
        peak = highest(samples)
        if negative_quality is not None:
            rated = torch.cat([rated, rated_negatives])
            probe = negative_quality.detach().sum()
            probe = float(probe) if probe.is_cpu else probe
            peak = peak + (probe - probe)  # NaN where one is no finite number
        batch, known, peak, lowest = ranked_with(self.global_batch, anchor, peak)
        if known == 0 or (peak < torch.inf) is False:  # no sums for what is known to be NaN
            nothing = scores[..., :0].sum(-1) + quality[..., :0].sum(-1).to(scores.dtype)
            return APLossTerms(nan_unless(peak < torch.inf, nothing), nothing.detach())

        if self.top_k is not None and self.top_k < samples.shape[-1]:
            samples = samples.masked_fill(~_highest(samples, self.top_k), -torch.inf)
        # Where the range is not waited for, the loss becomes NaN out of the fast sums' own.
        in_range = (peak < SCORE_LIMIT) & (lowest > -SCORE_LIMIT)
        exact = self._exact and in_range is not False
        sane = in_range if exact else peak < torch.inf
        sums = BucketSums if exact else PairwiseSums if scores.dim() == 1 else PairwiseSumsOfEach
        ranking, localization = _APLoss.apply(
            scores, quality, negative_quality, samples, anchor, rated, sums, batch, self
        )
        return APLossTerms(nan_unless(sane, ranking), localization)

    def terms_of_each(self, scores: Tensor, positives: Tensor, quality: Tensor) -> APLossTerms:
        """All in one, as :meth:`RankingLoss.terms_of_each`; a NaN in one ranking makes all of them NaN."""
        return self.terms(scores, positives, quality)


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
    """(..., N) bool: the k highest scores of each row, of equal ones the first."""
    threshold = scores.topk(k).values.amin(-1, keepdim=True)
    above, equal = scores > threshold, scores == threshold
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


class _Ignoring(torch.autograd.Function):
    """Scores with the ignored ones at −inf, where a sample is the same to every sum as one that is not there. There the
    gradient is 0 by itself."""

    @staticmethod
    def forward(ctx, scores, ignored):
        return scores.masked_fill(ignored, -torch.inf)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class _APLoss(torch.autograd.Function):
    """Both terms, with one backward pass for what autograd would record as some hundred small operations. All that the
    processes of a global batch tell each other is told in the forward pass: in the backward pass it would meet the
    messages of DistributedDataParallel."""

    @staticmethod
    def forward(ctx, scores, quality, negative_quality, samples, anchor, rated, path, batch, loss):
        xp = arrays_on(scores.device)
        q = quality.flatten() if negative_quality is None else torch.cat([quality, negative_quality])
        of_quality, ctx.slopes_of_quality = loss._of_qualities(q.double())
        positives = anchor.numel()
        rankings = len(scores) if scores.dim() > 1 else 1
        own = of_quality[1:, :positives].reshape(2, rankings, -1 if positives else 0)
        if batch is not None:
            told = torch.cat([anchor.view(own.shape[1:]), *(xp.tensor(rows) for rows in own)])
            told = batch.gather(told).unflatten(0, (3, rankings))
            anchor, own = told[0] if scores.dim() > 1 else told[0, 0], xp.array(told[1:])
        weight, gain = own
        functions = loss.functions["rank_numerator"], loss.functions["rank_denominator"]
        extra = xp.tensor(of_quality[0])
        ctx.sums = path(samples, anchor, *functions, rated, extra, loss._of_qualities.unrated_weight)
        sums, slopes = ctx.sums.sums, ctx.sums.slopes
        if batch is not None:
            sums, slopes = batch.add(torch.stack([sums, slopes]))
        numerator, denominator = xp.array(sums).reshape(2, rankings, -1)
        ctx.slopes = xp.array(slopes).reshape(2, rankings, -1)
        # Before the division: a quotient that is not used must not reach the gradient as NaN.
        denominator[denominator <= EMPTY_DENOMINATOR] = math.inf
        ctx.quotient = numerator / denominator
        ctx.to_numerator = weight / denominator
        ctx.own = slice(None) if batch is None else batch.own
        ctx.factor = (1 if batch is None else batch.processes) / anchor.shape[-1]
        ctx.loss, ctx.shape, ctx.like = loss, scores.shape, (quality, negative_quality)
        ctx.save_for_backward(rated)
        terms = (weight * ctx.quotient).sum(1), gain.sum(1)
        shape = scores.shape[:-1]
        return tuple(xp.tensor((term / anchor.shape[-1]).reshape(shape)).to(scores.dtype) for term in terms)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        (rated,) = ctx.saved_tensors
        xp = arrays_on(rated.device)
        of_ranking, of_localization = (xp.array(grad).reshape(-1, 1) * ctx.factor for grad in grads)
        of_sums = (ctx.to_numerator * of_ranking)[None]
        if not ctx.loss.block_gradient:
            of_sums = xp.join([of_sums, -of_sums * ctx.quotient])
        grad, of_rated, of_extra = ctx.sums.gradient(xp.tensor(of_sums.reshape(len(of_sums), -1)))
        # The other role of a positive's score: every difference it is subtracted in. Its parts cancel, so they are
        # added before they are rounded to the scores' type.
        own = ctx.own
        of_anchor = (of_sums * ctx.slopes[: len(of_sums)]).sum(0)[:, own].reshape(-1)
        positives, quotient = len(of_anchor), ctx.quotient[:, own]
        xp.array(of_rated)[:positives] -= of_anchor
        grad.index_copy_(0, rated, of_rated.to(grad.dtype))

        of_sample, of_weight, of_gain = ctx.slopes_of_quality
        shape = quotient.shape
        of_quality = xp.array(of_extra) * of_sample
        of_own = of_gain[:positives].reshape(shape) * of_localization
        of_own += of_weight[:positives].reshape(shape) * (quotient * of_ranking)
        of_quality[:positives] += of_own.reshape(-1)
        if ctx.loss.grad_scale != 1:
            of_quality *= ctx.loss.grad_scale
        quality, negative_quality = ctx.like
        of_quality = xp.tensor(of_quality)
        of_positives = of_quality[:positives].to(quality.dtype).view(quality.shape)
        of_negatives = None if negative_quality is None else of_quality[positives:].to(negative_quality.dtype)
        return grad.view(ctx.shape), of_positives, of_negatives, None, None, None, None, None, None
