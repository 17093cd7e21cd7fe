"""A proxy of hours that was cut off goes on where it was; a finalist's weights are kept."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramap_d2.files import write_whole


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training, in one file that is written whole.

    Args:
        path: of the file.
        every: iterations between two; the state of the last is kept.
        identity: of the training. A file of another one is passed over.
    """

    path: Path
    every: int
    identity: str

    def save(self, trainer: Any, extra: dict[str, Any]) -> None:
        """After an iteration of a Detectron2 trainer, with plain values of the caller's own; by all ranks together."""
        import numpy
        import torch
        from detectron2.utils import comm

        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        generators = random.getstate(), numpy.random.get_state(), torch.random.get_rng_state(), cuda
        # A normalization's statistics are each rank's own, too: Detectron2 does not broadcast them.
        buffers = {name: value.cpu() for name, value in trainer.model.named_buffers()}
        ranks = comm.gather((generators, buffers))
        if not comm.is_main_process():
            return
        state = {
            "identity": self.identity,
            "iteration": trainer.iter + 1,
            "model": trainer.model.state_dict(),
            "trainer": trainer.state_dict(),
            "ranks": ranks,
            "extra": extra,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def load(self, trainer: Any, loader_in_process: bool) -> tuple[int, dict[str, Any]]:
        """Puts a trainer that is ready to begin where the training was.

        With the loader in the process its batches so far are drawn again and dropped, so that what follows is what
        would have followed: the same weights on a CPU, if nothing but the loader draws from the generators of
        ``random`` and numpy. Otherwise the loader begins anew.

        Returns:
            the first iteration that is left, 0 without a file, and the caller's values.
        """
        import numpy
        import torch
        from detectron2.utils import comm

        if not self.path.exists():
            return 0, {}
        state = torch.load(self.path, map_location="cpu", weights_only=False)  # our own
        if state["identity"] != self.identity:
            return 0, {}
        trainer.model.load_state_dict(state["model"])
        trainer.load_state_dict(state["trainer"])
        if loader_in_process:
            batches = getattr(trainer, "_trainer", trainer)._data_loader_iter
            for _ in range(state["iteration"]):
                next(batches)
        (python, of_numpy, of_torch, cuda), buffers = state["ranks"][comm.get_rank()]
        for name, value in trainer.model.named_buffers():
            value.copy_(buffers[name])
        random.setstate(python)
        numpy.random.set_state(of_numpy)
        torch.random.set_rng_state(of_torch)
        if cuda and len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)
        return state["iteration"], state["extra"]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def keep_weights(model: Any, loss_file: Path, path: Path) -> None:
    """Write a trained model as a checkpoint of Detectron2's, and its loss file beside it.

    Raises:
        OSError, RuntimeError: of PyTorch's writer, where there is no room.
    """
    import torch

    path.parent.mkdir(exist_ok=True)
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module
    write_whole(path, lambda part: torch.save({"model": model.state_dict()}, part))
    write_whole(path.with_suffix(".json"), lambda part: shutil.copyfile(loss_file, part))
