"""The batches of all processes as one: what they tell each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from .score_range import Scalar, lowest


def several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class GlobalBatch:
    """One step's exchange. Every process takes part in every call, in the same order, whatever its share is.

    Args:
        positives: of this process.
        facts: (k,) float64, anything that all should know of each.

    Attributes:
        positives: of all processes.
        own: this process's among all, which are in the order of the ranks.
        facts: (processes, k), on the CPU.
        processes: how many.
    """

    def __init__(self, positives: int, facts: Tensor):
        self.processes = dist.get_world_size()
        told = torch.cat([facts.new_tensor([positives]), facts])
        heard = torch.stack(_all_gather(told, self.processes)).cpu()
        self._counts = [int(count) for count in heard[:, 0].tolist()]
        self.facts = heard[:, 1:]
        self.positives = sum(self._counts)
        rank = dist.get_rank()
        before = sum(self._counts[:rank])
        self.own = slice(before, before + self._counts[rank])

    def gather(self, values: Tensor) -> Tensor:
        """(k, own positives) to (k, positives of all)."""
        padded = values.new_zeros(len(values), max(self._counts))
        padded[:, : values.shape[1]] = values
        parts = _all_gather(padded, self.processes)
        return torch.cat([part[:, :count] for part, count in zip(parts, self._counts, strict=True)], dim=1)

    def add(self, sums: Tensor) -> Tensor:
        """In place, the sum over all processes; on all of them the same bits."""
        dist.all_reduce(sums)
        return sums


def ranked_with(others: bool, anchor: Tensor, peak: Scalar) -> tuple[GlobalBatch | None, int, Scalar, Scalar]:
    """What a ranking is over: the batches of all processes where ``others`` asks for that, there are several and
    gradients are enabled, or else that of this process.

    Args:
        anchor: (..., P) float64, the scores of this process's positives.
        peak: the highest score of its samples.

    Returns:
        The exchange, None for this process alone; and of all that is ranked how many positives there are (in each row
        of ``anchor``), the highest score, and the lowest of the positives'.
    """
    own_lowest = lowest(anchor)
    if not (others and torch.is_grad_enabled() and several_processes()):
        return None, anchor.shape[-1], peak, own_lowest
    facts = [torch.as_tensor(fact, dtype=torch.float64, device=anchor.device) for fact in (peak, own_lowest)]
    batch = GlobalBatch(anchor.shape[-1], torch.stack(facts))
    return batch, batch.positives, float(batch.facts[:, 0].amax()), float(batch.facts[:, 1].amin())


def _all_gather(own: Tensor, processes: int) -> list[Tensor]:
    parts = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(parts, own)
    return parts
