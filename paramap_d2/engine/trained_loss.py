"""What a training leaves of its loss: beside the checkpoint, so that a folder tells how its weights came about."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from paramap_d2 import __version__
from paramap_d2.losses import LossFileError, load_any_loss, save_loss
from paramap_d2.modeling.box_ap_loss import box_ap_losses

logger = logging.getLogger(__name__)


class TrainedLoss(HookBase):
    """Writes what a model trains with, functions and gradient scales, to ``loss.json``. A training that goes on with
    another loss than the file has says so, and keeps it as ``loss_until_<iteration>.json``.

    Args:
        output_dir: the training's.
    """

    def __init__(self, output_dir: str | os.PathLike[str]):
        self.path = Path(output_dir) / "loss.json"

    def before_train(self) -> None:
        """
        Raises:
            UserError: the model's loss cannot be read, lacks a head or has no use for an option.
        """
        losses = box_ap_losses(self.trainer.model)
        heads = {head: loss.head_loss for head, loss in losses.items()}
        if not heads or not comm.is_main_process():
            return
        sources = ", ".join(dict.fromkeys(loss.loss for loss in losses.values()))
        if self.path.exists():
            try:
                before = load_any_loss(self.path)
            except LossFileError as error:
                before, reason = None, str(error)
            if before == heads:
                return
            if self.trainer.start_iter > 0:
                kept = self.path.with_name(f"loss_until_{self.trainer.start_iter}.json")
                self.path.replace(kept)
                logger.warning(
                    f"up to iteration {self.trainer.start_iter} this training had another loss ({kept}"
                    f"{f'; {reason}' if before is None else ''}); it goes on with {sources}"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_loss(self.path, heads, {"trained_with": sources, "version": __version__})
