"""Training: by a YAML config or a LazyConfig, and what makes it fast on a CPU."""

from .trainer import Trainer

__all__ = ["Trainer"]
