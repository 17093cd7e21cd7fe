"""What a training trains with, from its first iteration to its last, and what it leaves of that: beside the checkpoint,
so that a folder tells how its weights came about."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from paramap_d2 import __version__
from paramap_d2.losses import HeadLoss, LossFileError, Sibling, load_any_loss, save_loss
from paramap_d2.modeling.box_ap_loss import BoxAPLoss, all_box_ap_losses, box_ap_losses

from .calibration import CALIBRATED

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt

Heads = Mapping[str, HeadLoss | Sibling]


class TrainedLoss(HookBase):
    """Has a training end with another loss, where it is to, and writes what it trains with, functions and gradient
    scales: ``loss.json`` and, for its end, ``end_loss.json``. A resumed training whose file has something else says so,
    and keeps the file as ``<name>_until_<iteration>.json``. When it has ended, the calibrated detector of an earlier
    training in the folder is gone with that one's ``model_final.pth``.

    Args:
        output_dir: the training's.
        end_loss: a preset, the path of a loss file or a loss without functions, that takes the place of the model's own
            for the end of the training, with the same options; read when it starts. "": none.
        end_loss_from: the part of the iterations, between 0 and 1, that come before that; each loss has at least one.
    """

    def __init__(self, output_dir: str | os.PathLike[str], end_loss: str = "", end_loss_from: float = 0.5):
        self.path, self.end_path = Path(output_dir) / "loss.json", Path(output_dir) / "end_loss.json"
        self.end_loss, self.end_loss_from = end_loss, end_loss_from
        self.losses: list[BoxAPLoss] = []
        self.own: list[tuple[str, HeadLoss | Sibling]] = []  # theirs, whatever the training ends with

    def before_train(self) -> None:
        """
        Raises:
            UserError: a loss cannot be read, lacks a head or has no use for an option.
        """
        losses = all_box_ap_losses(self.trainer.model)
        self.own = [(loss.loss, loss.head_loss) for loss in losses]
        self.losses = losses
        by_head = box_ap_losses(self.trainer.model)
        if not by_head:
            if self.trainer.start_iter == 0 and comm.is_main_process():  # what an earlier training was trained with
                for path in (self.path, self.end_path):
                    path.unlink(missing_ok=True)
            return
        sources = ", ".join(dict.fromkeys(loss.loss for loss in by_head.values()))
        self._write(self.path, {head: loss.head_loss for head, loss in by_head.items()}, sources)
        if not self.end_loss:
            if self.end_path.exists() and comm.is_main_process():
                self._set_aside(self.end_path, f"{sources}, as before it")
            return
        # Read now: what is there in some hours may be another.
        self.end = [loss.read(self.end_loss) for loss in self.losses]
        most = self.trainer.max_iter - 1
        self.switch_iteration = max(1, min(round(self.end_loss_from * self.trainer.max_iter), most))
        heads = {head: self.end[self.losses.index(loss)] for head, loss in by_head.items()}
        self._write(self.end_path, heads, self.end_loss, self.switch_iteration)
        if self.trainer.start_iter > self.switch_iteration:
            self._switch(self.trainer.start_iter)

    def before_step(self) -> None:
        if self.losses and self.end_loss and self.trainer.iter == self.switch_iteration:
            self._switch(self.trainer.iter)

    def after_train(self) -> None:
        trained = self.trainer.start_iter < self.trainer.max_iter <= self.trainer.iter
        if trained and comm.is_main_process():  # ``model_final.pth`` is another now
            for name in CALIBRATED:
                (self.path.parent / name).unlink(missing_ok=True)
        for loss, (name, head_loss) in zip(self.losses, self.own, strict=True):
            loss.change(name, head_loss)

    def _switch(self, iteration: int) -> None:
        logger.info("from iteration %d on this training's loss is %s", iteration, self.end_loss)
        for loss, head_loss in zip(self.losses, self.end, strict=True):
            loss.change(self.end_loss, head_loss)

    def _write(self, path: Path, heads: Heads, sources: str, begins: int | None = None) -> None:
        """
        Args:
            begins: the iteration at which the config has this loss begin; None for the first.
        """
        if not comm.is_main_process():
            return
        start = self.trainer.start_iter
        aside = path.with_name(f"{path.stem}_until_{start}.json")
        if path.exists():
            before, meta, reason = _read(path)
            began = meta.get("from_iteration", begins)
            # One that was first given after it should have begun has begun where it was given.
            if before == heads and (begins is None or began == begins or begins < began <= start):
                return
            if start and aside.exists():  # what was resumed with since then has come to no checkpoint
                path.unlink()
                if _read(aside)[0] == heads:
                    aside.replace(path)
                    return
                before, meta, reason = _read(aside)
                aside.replace(path)
            since = "" if begins is None else f" from iteration {begins} on"
            was = f"was to begin at iteration {meta.get('from_iteration')}" if before == heads else "was another"
            self._set_aside(path, sources + since, reason, was)
        path.parent.mkdir(parents=True, exist_ok=True)
        more = {} if begins is None else {"from_iteration": max(begins, start)}
        save_loss(path, heads, {"trained_with": sources, "version": __version__, **more})

    def _set_aside(self, path: Path, now: str, reason: str = "", was: str = "was another") -> None:
        """A file of this training before it was resumed; one of another training that was here is of no use."""
        start = self.trainer.start_iter
        if start == 0:
            path.unlink()
            return
        kept = path.with_name(f"{path.stem}_until_{start}.json")
        path.replace(kept)
        what = "end loss" if path == self.end_path else "loss"
        why = f"; {reason}" if reason else ""
        logger.warning(f"up to iteration {start} this training's {what} {was} ({kept}{why}); it is now {now}")


def _read(path: Path) -> tuple[Heads | None, Mapping[str, Any], str]:
    """The loss of a file and what is said about it, or None and why it cannot be read."""
    try:
        heads = load_any_loss(path)
    except LossFileError as error:
        return None, {}, str(error)
    meta = json.loads(path.read_text(encoding="utf-8")).get("meta")
    return heads, meta if isinstance(meta, dict) else {}, ""
