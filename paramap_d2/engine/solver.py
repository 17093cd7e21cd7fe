"""Parts of an optimizer that YAML configs ask for by keys, as functions that LazyConfigs can call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler


def lr_factors(factors: Sequence[Sequence[Any]], of_biases: float = 1.0) -> Callable[[str], float]:
    """The factor on a parameter's learning rate by its name, for ``get_default_optimizer_params(lr_factor_func=…)``.

    Args:
        factors: [part of a parameter's name, factor] pairs; the first that fits counts, and 1 where none does.
        of_biases: a further factor on the biases'.
    """
    pairs = [(str(part), float(factor)) for part, factor in factors]

    def factor_of(name: str) -> float:
        factor = next((factor for part, factor in pairs if part in name), 1.0)
        return factor * (of_biases if name.rpartition(".")[2] == "bias" else 1.0)

    return factor_of


def clipped_adamw(
    params: Iterable[Any], clip_value: float, clip_type: str = "norm", **options: Any
) -> torch.optim.AdamW:
    """AdamW that clips the gradient of each parameter, as ``SOLVER.CLIP_GRADIENTS`` does.

    Args:
        params: as for AdamW.
        clip_value: the greatest norm (``norm``) or absolute value (``value``) of a parameter's gradient.
        clip_type: ``norm`` or ``value``.
        options: AdamW's others.
    """
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = float(clip_value)
    return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(params, **options)


def warmup(
    scheduler: ParamScheduler, warmup_iters: int, max_iter: int, warmup_factor: float = 0.001
) -> WarmupParamScheduler:
    """Detectron2's linear warm-up with its length in iterations, as ``SOLVER.WARMUP_ITERS`` has it.

    Args:
        scheduler: of the whole training.
        warmup_iters: iterations until the learning rate is the scheduler's.
        max_iter: of the training.
        warmup_factor: on the learning rate of the first iteration.
    """
    return WarmupParamScheduler(scheduler, warmup_factor, min(warmup_iters / max_iter, 1.0), "linear")
