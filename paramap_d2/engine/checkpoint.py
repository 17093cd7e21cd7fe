"""Whether a checkpoint is one of the detector that is to go on from it or to be used as trained."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from paramap_d2.errors import UserError
from paramap_d2.modeling.timm_backbone import TimmBackbone

__all__ = ["TrainedCheckpointer", "check_resumable", "last_checkpoint", "resumed_checkpoint", "told_of_weights"]

logger = logging.getLogger(__name__)

KINDS = ("betas", "momentum")
"""Options that Adam's kin and SGD have, and not the other."""

STATES = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "sum")
"""What torch's SGD, Adam, AdamW and Adagrad hold in the shape of each parameter. Their fused CPU kernels do not compare
shapes: another one is read and written past its end."""


def resumed_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """As :func:`last_checkpoint`; that a training begins anew, since there is none, is told."""
    path = last_checkpoint(folder)
    if path is None:
        logger.warning("%s holds no checkpoint to go on from: the training begins anew", folder)
    return path


def last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The file that Detectron2's checkpointer would go on from, None without one."""
    try:
        with open(os.path.join(folder, "last_checkpoint"), encoding="utf-8") as file:
            return os.path.join(folder, file.read().strip())
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def told_of_weights(key: str, path: str, model: nn.Module, backbone: str = "") -> Iterator[None]:
    """For the length of the context, in which a model gets weights to start from, a UserError that names them and their
    key in the config where they cannot be had, as those of another machine without a network; or where they have
    nothing for the model's timm backbone, which was given up its own for them.

    Args:
        backbone: the key of its own weights and what that says; empty where it has none.
    """
    parts = [module for module in model.modules() if isinstance(module, TimmBackbone)] if path and backbone else []
    before = [[parameter.detach().clone() for parameter in part.parameters()] for part in parts]
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{key} is {path}, which cannot be read ({_reason(error)}): name a file that is here, or '' for none"
        ) from error
    for part, values in zip(parts, before, strict=True):
        if all(map(torch.equal, part.parameters(), values)):
            raise UserError(
                f"{key} is {path}, which has no weights for the timm backbone, and {backbone} is for a model without a "
                f"checkpoint: leave {key} empty to begin with the backbone's own, or name this detector's checkpoint"
            )


class TrainedCheckpointer(DetectionCheckpointer):
    """Loads a detector that is to be used as it was trained. Detectron2's own leaves what a checkpoint lacks, or has in
    another shape, at random values with a warning, which is right for weights to start from."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As DetectionCheckpointer's.

        Raises:
            UserError: a file that cannot be read, or is of another detector; names the parameter and both shapes.
        """
        try:
            return super().load(path, *args, **kwargs)
        except UserError as error:
            raise UserError(f"the weights {path} are not this config's: {error}") from None
        except Exception as error:  # torch and pickle raise all sorts
            raise UserError(f"cannot load {path}: {_reason(error)}") from None

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not isinstance(checkpoint.get("model"), Mapping):
            raise UserError("it holds no model's weights")
        incompatible = super()._load_model(checkpoint)
        for name, there, wanted in incompatible.incorrect_shapes:
            raise UserError(f"{name} has the shape {list(there)} there, and the config's model {list(wanted)}")
        for name, _ in self.model.named_parameters():
            if name in incompatible.missing_keys:
                raise UserError(f"they have no {name}, which the config's model has")
        return incompatible


def check_resumable(model: nn.Module, optimizer: torch.optim.Optimizer, path: str) -> None:
    """Raise unless every parameter, and all that an optimizer holds of it, has the same shape in the checkpoint.

    Detectron2's checkpointer leaves out parameters of another shape with a warning, which is right for weights to
    start from, and not for a training to go on.

    Raises:
        UserError: names the parameter and both shapes; also where the file cannot be read.
    """
    try:
        saved = torch.load(path, map_location="cpu", mmap=True)
    except Exception as error:  # torch and pickle raise all sorts
        raise UserError(f"cannot go on from {path}: {_reason(error)}") from None
    mend = "resume with the config that it was trained with, or train into another output folder"
    weights = {_plain(name): value for name, value in saved.get("model", {}).items()}
    names = {}
    for name, parameter in model.named_parameters():
        name = names[parameter] = _plain(name)
        if name not in weights:
            raise UserError(f"cannot go on from {path}: it has no {name}, which the config's model has: {mend}")
        if weights[name].shape != parameter.shape:
            raise UserError(f"cannot go on from {path}: {_shapes(name, weights[name], parameter)}: {mend}")
    state = _optimizer_state(saved)
    if state is None:
        return
    if [len(group["params"]) for group in state["param_groups"]] != [len(g["params"]) for g in optimizer.param_groups]:
        raise UserError(f"cannot go on from {path}: its optimizer trained other parameters than the config's: {mend}")
    for before, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if any((key in before) != (key in group) for key in KINDS):
            raise UserError(f"cannot go on from {path}: its optimizer is of another kind than the config's: {mend}")
        for number, parameter in zip(before["params"], group["params"], strict=True):
            for key, value in state["state"].get(number, {}).items():
                if key in STATES and isinstance(value, Tensor) and value.shape != parameter.shape:
                    what = f"{key} of {names.get(parameter, 'a parameter')}"
                    raise UserError(f"cannot go on from {path}: {_shapes(what, value, parameter)}: {mend}")


def _reason(error: Exception) -> str:
    """In one line; torch comes to the point after what it says of its versions and options."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text.partition("WeightsUnpickler error: ")[2][:200] or text[:200] or type(error).__name__


def _plain(name: str) -> str:
    return name.removeprefix("module.")  # DistributedDataParallel's


def _shapes(what: str, saved: Tensor, wanted: Tensor) -> str:
    return f"{what} has the shape {list(saved.shape)} there, and the config's model {list(wanted.shape)}"


def _optimizer_state(saved: dict[str, Any]) -> dict[str, Any] | None:
    """DefaultTrainer keeps its inner trainer's, which a LazyConfig's trainer is itself."""
    trainer = saved.get("trainer", {})
    return trainer.get("_trainer", trainer).get("optimizer")
