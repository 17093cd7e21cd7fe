"""What AP Loss and RS Loss have in common: errors of the positives, and updates in the place of a gradient."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .functions import PiecewiseLinear
from .global_batch import ranked_with
from .pairwise import PairwiseSums
from .ranking_loss import APLossTerms, RankingLoss
from .ranking_sums import SCORE_LIMIT, BucketSums
from .score_range import highest, nan_unless


def soft_step(delta: float) -> PiecewiseLinear:
    """H of a score difference d: 0 up to −δ, 1 from δ on, linear between; 0 < δ <= 1."""
    ends = [] if delta == 1 else [((1 - delta) / 2, 0.0), ((1 + delta) / 2, 1.0)]
    return PiecewiseLinear([(0.0, 0.0), *ends, (1.0, 1.0)])


class Errors(NamedTuple):
    """Of every positive, (P,) float64; the updates are those of the sum over positives."""

    error: Tensor
    of_negatives: Tensor  # the update of a sample j that is no positive, per H(s_j − s_i)
    of_positives: Tensor  # the update of the positive's own score
    share: Tensor  # of its box in the box term; they add up to 1


class ErrorDrivenLoss(RankingLoss):
    """The mean error of the positives, and Σ_i share_i (1 − GIoU_i) for their boxes. The error's derivative is 0 or
    does not exist, so that an update of each score takes its place. Takes O((N + P) log P) time but for
    :meth:`errors`.

    Args:
        grad_scale: factor on the gradient of the boxes.
        global_batch: where several processes train, rank the samples of all of them together, as
            :class:`~paramap_d2.losses.ParameterizedAPLoss` does. What is sent does not grow with the samples.
    """

    step: ClassVar[PiecewiseLinear]
    """H, the soft step that counts the samples above a positive."""

    balanced = False
    """Whether the box term is multiplied by a constant that gives it the value of the ranking term."""

    def __init__(self, grad_scale: float = 1.0, global_batch: bool = False):
        super().__init__(grad_scale)
        self.global_batch = global_batch

    def extra_repr(self) -> str:
        return f"grad_scale={self.grad_scale:g}, global_batch={self.global_batch}"

    def errors(self, anchor: Tensor, negatives: Tensor, positives: Tensor, iou: Tensor | None) -> Errors:
        """
        Args:
            anchor: (P,) float64, the positives' scores.
            negatives: (P,) float64, Σ H(s_j − a_i) over the samples j that are no positives.
            positives: (P,) float64, the same over the other positives.
            iou: (P,) float64 of the positives' boxes, if the loss takes it.
        """
        raise NotImplementedError

    def terms(self, scores: Tensor, positives: Tensor, *qualities: Tensor) -> APLossTerms:
        """As :meth:`RankingLoss.terms`.

        Args:
            qualities: (P,) (GIoU + 1)/2 of the positives' boxes, differentiable; for RS Loss their IoU, too, to which
                no gradient flows.
        """
        scores = scores if scores.dtype == torch.float64 else scores.float()
        samples = scores.detach()
        anchor = samples.index_select(0, positives).double()
        batch, known, peak, lowest = ranked_with(self.global_batch, anchor, highest(samples))
        if known == 0 or (peak < torch.inf) is False:  # no sums for what is known to be NaN
            nothing = scores[:0].sum() + sum(quality[:0].sum().to(scores.dtype) for quality in qualities)
            return APLossTerms(nan_unless(peak < torch.inf, nothing), nothing.detach())
        in_range = (peak < SCORE_LIMIT) & (lowest > -SCORE_LIMIT)
        exact = in_range is not False
        sane = in_range if exact else peak < torch.inf
        ranking, boxes = _ErrorDriven.apply(
            scores, positives, anchor, BucketSums if exact else PairwiseSums, batch, self, *qualities
        )
        return APLossTerms(nan_unless(sane, ranking), boxes)


class _ErrorDriven(torch.autograd.Function):
    """Both terms. All that processes tell each other is told in the forward pass."""

    @staticmethod
    def forward(ctx, scores, positives, anchor, path, batch, loss, *qualities):
        known = torch.stack([anchor, *(quality.double() for quality in qualities)])
        if batch is not None:
            known = batch.gather(known)
        anchor, giou, *iou = known
        nothing = anchor.new_zeros(0)
        of_nothing = positives[:0], nothing, 1.0
        negatives = scores.index_fill(0, positives, -torch.inf)
        ctx.above = path(negatives, anchor, loss.step, loss.step, *of_nothing)
        above = ctx.above.sums[0]
        if batch is not None:
            above = batch.add(above.contiguous())
        others = path(anchor, anchor, loss.step, loss.step, *of_nothing).sums[0]
        others = others - torch.where(anchor > -torch.inf, 0.5, 0.0)  # H(0) of itself
        error, ctx.of_negatives, of_positives, share = loss.errors(anchor, above, others.clamp(min=0), *iou)
        ranking = error.mean()
        boxes = 2 * share.dot(1 - giou)
        balance = torch.where(boxes > 0, ranking / boxes, 0.0) if loss.balanced else boxes.new_ones(())
        if iou:
            probe = iou[0].sum()
            ranking = ranking + (probe - probe)  # NaN where one is no finite number
        own = slice(None) if batch is None else batch.own
        ctx.factor = (1 if batch is None else batch.processes) / anchor.numel()
        ctx.of_quality = -2 * loss.grad_scale * anchor.numel() * balance * share[own]
        ctx.qualities = qualities
        ctx.save_for_backward(positives, of_positives[own])
        return ranking.to(scores.dtype), (balance * boxes).to(scores.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_ranking, grad_boxes):
        positives, of_positives = ctx.saved_tensors
        update = ctx.above.of_samples(ctx.of_negatives * (grad_ranking * ctx.factor))
        update.index_copy_(0, positives, (of_positives * (grad_ranking * ctx.factor)).to(update.dtype))
        giou, *others = ctx.qualities
        of_giou = (ctx.of_quality * (grad_boxes * ctx.factor)).to(giou.dtype)
        return update, None, None, None, None, None, of_giou, *(None for _ in others)
