"""Published ranking losses that a head can train with by name: they have no functions, and nothing to search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paramap_d2.errors import UserError

from .ap_loss import APLoss
from .rank_sort import RankSortLoss
from .ranking_loss import RankingLoss, check_grad_scale

SIBLINGS: Mapping[str, type[RankingLoss]] = {"ap-loss": APLoss, "rank-sort": RankSortLoss}


@dataclass(frozen=True)
class Sibling:
    """The loss of one head, where it is one of :data:`SIBLINGS`; ``grad_scale`` as that of a HeadLoss."""

    name: str
    grad_scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in SIBLINGS:
            raise ValueError(f"there is no loss {self.name!r}; those without functions are {', '.join(SIBLINGS)}")
        check_grad_scale(self.grad_scale)

    def to_json(self) -> dict[str, Any]:
        return {"loss": self.name, "grad_scale": self.grad_scale}

    def check_options(self, quality: str, block_gradient: bool, top_k: int | None) -> None:
        """Refuse options that are of the Parameterized AP Loss alone.

        Raises:
            UserError: names the option, its config key and the value that leaves it alone.
        """
        given = {"quality": (quality, "giou"), "block_gradient": (block_gradient, True), "top_k": (top_k or 0, 0)}
        for name, (value, untouched) in given.items():
            if value != untouched:
                raise UserError(
                    f"{name} (MODEL.PARAM_AP.{name.upper()}) is of the Parameterized AP Loss, and {self.name} has no "
                    f"use for {value!r}: leave it at {untouched!r}"
                )
