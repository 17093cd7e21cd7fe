"""Loss files: the functions and gradient scale of every head, as a search writes them and training reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from paramap_d2.errors import UserError
from paramap_d2.files import write_whole

from .functions import FUNCTION_NAMES, SUBSTITUTIONS, PiecewiseLinear, RankingFunction
from .parameterized_ap import checked_functions
from .ranking_loss import check_grad_scale
from .siblings import SIBLINGS, Sibling

HEADS = ("dense", "rpn", "roi", "detr")
"""The heads that a loss file may hold: RetinaNet and other dense detectors; Faster R-CNN's two; Deformable DETR."""

FORMAT = 1


class LossFileError(UserError):
    """A loss file or preset that cannot be used; one line that says which part, and how to mend it."""


@dataclass(frozen=True)
class HeadLoss:
    """The loss of one head: its five functions and its gradient scale (0.1 … 10 in the paper's search)."""

    functions: Mapping[str, RankingFunction]
    grad_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", checked_functions(self.functions))
        check_grad_scale(self.grad_scale)

    def to_json(self) -> dict[str, Any]:
        return {
            "functions": {name: function.to_json() for name, function in self.functions.items()},
            "grad_scale": self.grad_scale,
        }


def _presets() -> dict[str, Any]:
    return {p.name.removesuffix(".json"): p for p in resources.files(__package__).joinpath("presets").iterdir()}


def list_presets() -> list[str]:
    """Names that :func:`load_loss` takes: the published searched losses and the handcrafted substitutions."""
    return sorted([*_presets(), *SUBSTITUTIONS])


def load_loss(name_or_path: str | os.PathLike[str]) -> dict[str, HeadLoss]:
    """The heads of a preset (see :func:`list_presets`) or of a loss file.

    A handcrafted substitution has all heads of :data:`HEADS`, at gradient scale 1.

    Raises:
        LossFileError: no such preset or file, or one that does not hold what it should; the message names the head,
            function and control point. A loss without functions, such as ``ap-loss``.
    """
    losses = load_any_loss(name_or_path)
    if any(isinstance(loss, Sibling) for loss in losses.values()):
        raise LossFileError(
            f"loss {os.fspath(name_or_path)!r} has no functions to start from, search or draw: it can be trained with "
            f"alone (as MODEL.PARAM_AP.LOSS); those that have some are {', '.join(list_presets())} and loss files"
        )
    return losses


def load_any_loss(name_or_path: str | os.PathLike[str]) -> dict[str, HeadLoss | Sibling]:
    """As :func:`load_loss`, but also of losses that have no functions (:data:`~paramap_d2.losses.siblings.SIBLINGS`),
    by their name or in the ``loss.json`` that a training with one leaves: all that a detector can train with."""
    name = os.fspath(name_or_path)
    if name in SIBLINGS:
        return dict.fromkeys(HEADS, Sibling(name))
    if name in SUBSTITUTIONS:
        function = SUBSTITUTIONS[name]()
        return {head: HeadLoss(dict.fromkeys(FUNCTION_NAMES, function)) for head in HEADS}
    source = _presets().get(name, Path(name))
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise LossFileError(
            f"loss {name!r} is neither a preset ({', '.join(list_presets())}), nor {' or '.join(SIBLINGS)}, nor a "
            f"readable loss file: {reason}"
        ) from None
    try:
        return parse_loss(json.loads(text))
    except RecursionError:
        raise LossFileError(f"loss file {name}: it is nested too deeply to be a loss file") from None
    except ValueError as error:
        raise LossFileError(f"loss file {name}: {error}") from None


def parse_loss(content: Any) -> dict[str, HeadLoss | Sibling]:
    """The heads of a loss file's content, as read from JSON.

    Raises:
        ValueError: names the part that is wrong.
    """
    if not isinstance(content, dict) or "heads" not in content:
        raise ValueError('not a loss file: it has no "heads"')
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}; this version reads {FORMAT}")
    heads = content["heads"]
    if not isinstance(heads, dict) or not heads:
        raise ValueError('"heads" must be an object with at least one head')
    result = {}
    for head, entry in heads.items():
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
        if isinstance(entry, dict) and set(entry) == {"loss", "grad_scale"}:
            try:
                result[head] = Sibling(entry["loss"], entry["grad_scale"])
            except ValueError as error:
                raise ValueError(f"head {head!r}: {error}") from None
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("functions"), dict):
            raise ValueError(f'head {head!r} must hold an object "functions"')
        for key in entry:
            if key not in ("functions", "grad_scale"):
                raise ValueError(f'head {head!r} holds an unknown key {key!r}; it may hold "functions", "grad_scale"')
        functions = {}
        for name, value in entry["functions"].items():
            try:
                functions[name] = _parse_function(value)
            except ValueError as error:
                raise ValueError(f"head {head!r}, function {name!r}: {error}") from None
        try:
            result[head] = HeadLoss(functions, entry.get("grad_scale", 1.0))
        except ValueError as error:
            raise ValueError(f"head {head!r}: {error}") from None
    return result


def _parse_function(value: Any) -> RankingFunction:
    if isinstance(value, str):
        if value not in SUBSTITUTIONS:
            raise ValueError(f"unknown substitution {value!r}; there are {', '.join(SUBSTITUTIONS)}")
        return SUBSTITUTIONS[value]()
    return PiecewiseLinear(value)


def loss_content(heads: Mapping[str, HeadLoss | Sibling], meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a loss file holds, ready for JSON."""
    return {
        "format": FORMAT,
        "heads": {head: loss.to_json() for head, loss in heads.items()},
        "meta": dict(meta or {}),
    }


def save_loss(
    path: str | os.PathLike[str], heads: Mapping[str, HeadLoss | Sibling], meta: Mapping[str, Any] | None = None
) -> None:
    """Writes a loss file, whole or not at all. ``meta`` says where the loss comes from; training does not read it."""
    write_whole(path, f"{json.dumps(loss_content(heads, meta), indent=1)}\n".encode())


Loss = TypeVar("Loss", HeadLoss, HeadLoss | Sibling)


def head_losses(heads: Mapping[str, Loss], wanted: tuple[str, ...], source: str) -> list[Loss]:
    """The losses of a detector's heads, in the order asked for.

    Raises:
        LossFileError: ``source`` (the preset or file) lacks one; the message says which and what it has.
    """
    missing = [head for head in wanted if head not in heads]
    if missing:
        fitting = [name for name in _presets() if name != source and set(wanted) <= set(load_loss(name))]
        hint = f" ({', '.join(sorted(fitting))} would fit)" if fitting else ""
        raise LossFileError(
            f"loss {source} has no head {', '.join(map(repr, missing))}, which this detector needs; "
            f"it has {', '.join(map(repr, heads))}{hint}"
        )
    return [heads[head] for head in wanted]
