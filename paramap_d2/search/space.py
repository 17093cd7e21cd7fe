"""The space that a search explores: what each gene of a genome stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paramap_d2.errors import UserError
from paramap_d2.losses import FUNCTION_NAMES, HeadLoss, PiecewiseLinear
from paramap_d2.losses.encoding import (
    decode_grad_scale,
    decode_points,
    encode_grad_scale,
    encode_points,
    identity_genes,
)
from paramap_d2.losses.loss_file import FORMAT, parse_loss

Genome = list[float]
"""Genes in [0, 1], head by head: the control points of its functions, then its gradient scale."""

MODES = ("separate", "shared")


@dataclass(frozen=True)
class SearchSpace:
    """Genomes and the losses they stand for.

    Args:
        heads: the heads that are searched.
        points: interior control points K of each function; 2·K genes.
        mode: ``separate``: each of a head's five functions has genes of its own; ``shared``: one function serves as
            all five (the paper's Table 3).
        grad_scale: a fixed gradient scale for all searched heads, without a gene; None searches it.
        fixed: heads that keep the loss given here and have no genes.
    """

    heads: tuple[str, ...]
    points: int = 4
    mode: str = "separate"
    grad_scale: float | None = None
    fixed: Mapping[str, HeadLoss] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"--mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not 1 <= self.points <= 32:
            raise UserError(f"--points must be from 1 to 32, not {self.points}")
        if not self.heads:
            raise UserError("there is no head to search")

    @property
    def _functions(self) -> tuple[str, ...]:
        return FUNCTION_NAMES if self.mode == "separate" else ("all functions",)

    @property
    def gene_names(self) -> list[str]:
        """One for each gene, such as ``dense.rank_numerator.x1``."""
        names = []
        for head in self.heads:
            for function in self._functions:
                names += [f"{head}.{function}.{axis}{k}" for k in range(1, self.points + 1) for axis in "xy"]
            if self.grad_scale is None:
                names.append(f"{head}.grad_scale")
        return names

    @property
    def genes(self) -> int:
        """Length of a genome."""
        return len(self.heads) * (len(self._functions) * 2 * self.points + (self.grad_scale is None))

    def decode(self, genome: Sequence[float]) -> dict[str, HeadLoss]:
        """The loss of every head, fixed ones included.

        Raises:
            ValueError: another number of genes, or one outside [0, 1].
        """
        if len(genome) != self.genes:
            raise ValueError(f"a genome of this space has {self.genes} genes, not {len(genome)}")
        losses = {}
        rest = list(genome)
        for head in self.heads:
            functions = {}
            for name in self._functions:
                functions[name] = PiecewiseLinear(decode_points(rest[: 2 * self.points]))
                del rest[: 2 * self.points]
            if self.mode == "shared":
                functions = dict.fromkeys(FUNCTION_NAMES, functions.popitem()[1])
            scale = decode_grad_scale(rest.pop(0)) if self.grad_scale is None else self.grad_scale
            losses[head] = HeadLoss(functions, scale)
        return {**losses, **self.fixed}

    def encode(self, losses: Mapping[str, HeadLoss], source: str = "the loss") -> Genome:
        """The genome that decodes to these losses, to start a search from. Control points that are nearer to each other
        in x than ``encoding.GAP`` are moved apart by it.

        Raises:
            UserError: ``source`` lacks a head, has a function that is not piecewise linear or has more control points,
                its functions differ where the space shares one, or its gradient scale is outside of the searched ones.
        """
        genome: Genome = []
        for head in self.heads:
            if head not in losses:
                raise UserError(f"{source} has no head {head!r}, which is searched; it has {', '.join(losses)}")
            functions = losses[head].functions
            if self.mode == "shared" and len(set(functions.values())) > 1:
                raise UserError(f"{source}: the functions of head {head!r} differ, and the search shares one for all")
            for name in functions if self.mode == "separate" else FUNCTION_NAMES[:1]:
                function = functions[name]
                if not isinstance(function, PiecewiseLinear):
                    raise UserError(f"{source}: function {name!r} of head {head!r} is not piecewise linear")
                try:
                    genome += encode_points(function.points, self.points)
                except ValueError as error:
                    raise UserError(f"{source}: function {name!r} of head {head!r}: {error}") from None
            if self.grad_scale is None:
                scale = losses[head].grad_scale
                genome.append(encode_grad_scale(scale))
                least, most = decode_grad_scale(0), decode_grad_scale(1)
                if not least * (1 - 1e-9) <= scale <= most * (1 + 1e-9):
                    raise UserError(
                        f"{source}: the gradient scale {scale:g} of head {head!r} is not among the searched ones, "
                        f"{least:g} to {most:g}; --fix-grad-scale {scale:g} searches with it"
                    )
        return genome

    def identity(self) -> Genome:
        """All functions the identity, gradient scale 1."""
        head = identity_genes(self.points) * len(self._functions) + [0.5] * (self.grad_scale is None)
        return head * len(self.heads)

    def describe(self) -> dict[str, Any]:
        """What makes two spaces the same, ready for JSON."""
        return {
            "heads": list(self.heads),
            "points": self.points,
            "mode": self.mode,
            "grad_scale": self.grad_scale,
            "fixed": {
                head: [[f.to_json() for f in loss.functions.values()], loss.grad_scale]
                for head, loss in self.fixed.items()
            },
        }

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> SearchSpace:
        """The space that :meth:`describe` tells of."""
        fixed = {
            head: {"functions": dict(zip(FUNCTION_NAMES, functions, strict=True)), "grad_scale": scale}
            for head, (functions, scale) in description["fixed"].items()
        }
        losses = parse_loss({"format": FORMAT, "heads": fixed}) if fixed else {}
        return cls(
            tuple(description["heads"]),
            description["points"],
            description["mode"],
            description["grad_scale"],
            losses,
        )
