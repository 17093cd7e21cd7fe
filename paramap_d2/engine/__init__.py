"""Training: by a YAML config or a LazyConfig, and what makes it fast on a CPU."""

from .trainer import Trainer, resumed

__all__ = ["Trainer", "resumed"]
