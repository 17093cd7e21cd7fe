"""Whether a search lives, what it does, and what to type next: from its folder alone, which is only read."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramap_d2.files import read_json

from . import heartbeat, lock
from .commands import training_command
from .confirmation import verdict
from .enqueued import prospect, waiting
from .heartbeat import DEAD, DONE, FAILED, INTERRUPTED, RUNNING
from .names import loss_names, short_name
from .status import duration, progress, read_search, status_text
from .store import INTERRUPTED as CUT_OFF
from .store import SEARCH, Evaluation


@dataclass(frozen=True)
class TrainingNow:
    """A training under way."""

    worker: int
    generation: int
    position: int
    stage: str  # see Evaluation
    seed: int
    attempt: int
    genome: list[float]
    started: float  # seconds since the epoch
    iteration: int | None = None  # done; None where it has told nothing yet
    planned: int | None = None  # iterations in all
    loss: float | None = None  # of the last iteration
    curve: list[list[float]] = field(default_factory=list)  # [iteration, metric] of evaluations on the way
    phase: str = "starting"  # or training, evaluating


@dataclass(frozen=True)
class Life:
    """How a search is. What a search of an older version does not tell is None or empty."""

    state: str  # RUNNING, DONE, INTERRUPTED, FAILED or DEAD
    why: str = ""  # of a state, one line
    host: str | None = None  # of its last run
    pid: int | None = None
    begun: float | None = None  # its last run, seconds since the epoch
    seen: float | None = None  # its last sign of life
    generation: int | None = None  # that it is at; None in the last trainings too
    trainings: Sequence[TrainingNow] = ()

    @property
    def alive(self) -> bool:
        return self.state == RUNNING


def read_life(output: str | os.PathLike[str], evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> Life:
    """How the search in a folder is, with what its store holds.

    A search holds its folder's lock. Where no lock is seen, for the search may be on another host, its heartbeat tells.
    """
    folder = Path(output)
    told = read_json(folder / heartbeat.FILE)
    held = lock.held(folder)
    if not told:
        return Life(RUNNING if held else _state_by_the_store(evaluations, settings))
    said, seen = told.get("state"), told.get("heartbeat", 0.0)
    here = (told.get("host"), told.get("boot", heartbeat.boot())) == (socket.gethostname(), heartbeat.boot())
    if said == RUNNING:
        fresh = time.time() - seen < heartbeat.STALE
        alive = held or (fresh and (held is None or not here))
        state, why = (RUNNING, "") if alive else (DEAD, "it was killed, or its machine went down")
    elif held:  # resumed, and not yet far enough to say so
        return Life(RUNNING)
    else:
        state, why = said, told.get("why", "")
    return Life(
        state,
        why,
        told.get("host"),
        told.get("pid"),
        told.get("begun"),
        seen,
        told.get("generation"),
        [_training(folder, t) for t in told.get("running", ())] if state == RUNNING else (),
    )


def _training(folder: Path, told: Mapping[str, Any]) -> TrainingNow:
    progress = read_json(folder / heartbeat.TRAININGS / f"{told['name']}.json")
    known = ("worker", "generation", "position", "stage", "seed", "attempt", "genome", "started")
    if progress.get("time", 0.0) < told["started"]:
        progress = {}  # of an attempt before
    later = {key: progress[key] for key in ("iteration", "planned", "loss", "curve", "phase") if key in progress}
    return TrainingNow(**{key: told[key] for key in known}, **later)


def _state_by_the_store(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> str:
    """Of a search that wrote no status, and has not its lock."""
    now = progress(evaluations, settings)
    confirming = settings.get("options", {}).get("confirm", 0) if "confirmation" in settings else 0
    if now.planned is not None and now.done >= now.planned and not (confirming and not verdict(evaluations, settings)):
        return DONE
    return INTERRUPTED if evaluations and evaluations[-1].status == CUT_OFF else DEAD


def life_text(life: Life, now: float | None = None) -> str:
    """State, where and how long, in one line."""
    now = time.time() if now is None else now
    text = life.state
    if life.alive:
        text += f" on {life.host} (process {life.pid})" if life.host else ""
        text += f" for {duration(max(0.0, now - life.begun))}" if life.begun else ""
        return text
    ago = f"{duration(max(0.0, now - life.seen))} ago" if life.seen else ""
    if life.state == DEAD:
        return "; ".join(filter(None, [f"{text}: {life.why}" if life.why else text, ago and f"last seen {ago}"]))
    return f"{text} {ago}".rstrip() + (f": {life.why}" if life.why else "")


def training_name(training: TrainingNow, name: str = "") -> str:
    """Which training it is.

    Args:
        name: of its loss, where that has one.
    """
    parts = [f"generation {training.generation}, loss {training.position}" + (f" ({name})" if name else "")]
    if training.stage != SEARCH:
        parts.append(f"{training.stage}, seed {training.seed}")
    if training.attempt > 1:
        parts.append(f"attempt {training.attempt}")
    return ", ".join(parts)


def training_text(training: TrainingNow, metric: str, name: str = "", now: float | None = None) -> str:
    """What a training is and how far, in one line."""
    now = time.time() if now is None else now
    parts = [training_name(training, name)]
    if training.iteration is None:
        parts.append(training.phase)
    else:
        parts.append(f"iteration {training.iteration} of {training.planned}")
        if training.phase == "evaluating":
            parts.append("evaluating")
        if training.loss is not None:
            parts.append(f"loss {training.loss:.3g}")
    if training.curve:
        iteration, reached = training.curve[-1]
        parts.append(f"{metric} {reached:.2f} after {iteration:.0f}")
    parts.append(f"for {duration(max(0.0, now - training.started))}")
    return ", ".join(parts)


def next_commands(life: Life, output: str | os.PathLike[str], settings: Mapping[str, Any]) -> list[str]:
    """What a user would type next, as it is typed."""
    folder = os.fspath(output)
    if life.state == RUNNING:
        return [shlex.join(["paramap", "status", folder, "--serve"])]
    resume = shlex.join(["paramap", "evolve", "--resume", "--output-dir", folder])
    if life.state in (INTERRUPTED, DEAD, FAILED):
        return [resume]
    best = Path(folder) / "best.json"
    return [training_command(settings, best, Path(folder) / "retrained")] if best.exists() else [resume]


def overview(output: str | os.PathLike[str]) -> tuple[Life, str]:
    """How the search in a folder is, and everything that ``paramap status`` tells of it, as lines.

    Raises:
        StoreError: no search is there, or its store cannot be read.
    """
    evaluations, settings = read_search(output)
    life = read_life(output, evaluations, settings)
    lines = [f"search       {life_text(life)}", status_text(evaluations, settings)]
    names, metric = loss_names(settings), settings.get("metric", "AP")
    for training in sorted(life.trainings, key=lambda t: t.worker):
        name = names.get(tuple(training.genome), "")
        lines.append(f"worker {training.worker:<5} {training_text(training, metric, name)}")
    if losses := [short_name(loss.name) for loss in waiting(output)]:
        lines.append(f"enqueued     {', '.join(losses)}: {prospect(output)}")
    lines += [f"next         {command}" for command in next_commands(life, output, settings)]
    return life, "\n".join(lines)
