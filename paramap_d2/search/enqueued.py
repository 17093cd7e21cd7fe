"""Losses that a user puts beside those that a search asks for, while it runs or before it is resumed.

Whoever enqueues leaves a file in the search's folder; the search alone writes its store. What it takes in for a
generation stands in the store before that generation is trained, and stays: a search that is killed and resumed trains
the same losses in the same generations.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError
from paramap_d2.files import read_json, write_whole

from . import heartbeat, lock
from .algorithms import FIXED_LENGTH
from .algorithms.sampling import rounded
from .names import loss_names, short_name
from .space import Genome
from .status import STORE, searched_space
from .store import INTERRUPTED, PROXIES, REPEAT, Evaluation, Store

logger = logging.getLogger("paramap_d2.search")

FOLDER = "enqueued"
"""In a search's folder: one file a loss that waits."""

SETTING = "enqueued"
"""Of the store: ``until``, the last generation for which losses were taken in, and ``losses``, each with its
``generation``, ``genome`` and ``name``."""


@dataclass(frozen=True)
class Waiting:
    """A loss that no generation has taken in."""

    file: Path
    genome: Genome
    name: str


class Intake:
    """Takes in what waits, once a generation. Of one search, in one process.

    Args:
        folder: of the search.
        store: where it is kept what was taken in.
    """

    def __init__(self, folder: Path, store: Store):
        self._folder, self._store = folder, store

    def of(self, generation: int) -> list[Genome]:
        """What a generation took in."""
        return [loss["genome"] for loss in _taken(self._store.settings())["losses"] if loss["generation"] == generation]

    def take(self, generation: int, known: Iterable[Genome], room: float = math.inf) -> list[Genome]:
        """What a generation takes in: what waits as it begins. Of a generation that goes on, what it took in then.

        Args:
            known: genomes that need no training for that: those that the search has asked for, now or before.
            room: trainings that the search's budget leaves for them. The others go on waiting.
        """
        before = _taken(self._store.settings())
        if generation > before["until"]:
            there = {tuple(genome) for genome in known} | {tuple(loss["genome"]) for loss in before["losses"]}
            genes, losses, passed = len(next(iter(there), ())), list(before["losses"]), []
            for loss in waiting(self._folder):
                if tuple(loss.genome) not in there and len(loss.genome) == genes:
                    if room < 1:
                        continue
                    room -= 1
                    there.add(tuple(loss.genome))
                    losses.append({"generation": generation, "genome": loss.genome, "name": loss.name})
                    logger.info(f"enqueued: {short_name(loss.name)} is trained with generation {generation}")
                passed.append(loss.file)
            self._store.write_settings({SETTING: {"until": generation, "losses": losses}})
            for file in passed:
                file.unlink(missing_ok=True)
        return self.of(generation)


def _taken(settings: Mapping[str, Any]) -> dict[str, Any]:
    return settings.get(SETTING) or {"until": -1, "losses": []}


def waiting(folder: str | os.PathLike[str]) -> list[Waiting]:
    """What waits in a search's folder, in the order in which it was enqueued; files that are none are passed over."""
    found = []
    for file in sorted((Path(folder) / FOLDER).glob("*.json")):
        content = read_json(file)
        genome, name = content.get("genome"), content.get("name")
        if isinstance(name, str) and isinstance(genome, list) and all(_is_gene(gene) for gene in genome):
            found.append(Waiting(file, genome, name))
        else:
            logger.warning(f"{file} holds no enqueued loss")
    return found


def _is_gene(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def enqueue(output: str | os.PathLike[str], names: Sequence[str]) -> str:
    """Add losses, presets or loss files, to the search in a folder; returns what becomes of them, in one line.

    Raises:
        UserError: no search is there, a loss cannot be one of it or is there already, or nothing takes it in. Nothing
            is added then.
    """
    from paramap_d2.losses import load_loss

    folder = Path(output)
    with Store(folder / STORE, readonly=True) as store:
        settings, evaluations, told = store.settings(), store.evaluations(), store.told()
    space = searched_space(folder, settings)
    if lock.held(folder) and not (folder / heartbeat.FILE).exists():
        raise UserError(f"the search that runs in {folder} is of an older version and takes nothing in; end it first")
    there = {tuple(genome): f"as {name!r}" for genome, name in loss_names(settings).items()}
    there |= {tuple(e.genome): f"evaluation {e.id}" for e in reversed(evaluations)}
    there |= {tuple(loss.genome): "it waits to be trained" for loss in waiting(folder)}
    added = []
    for name in names:
        genome = rounded(space.encode(load_loss(name), f"loss {name}"))
        if tuple(genome) in there:
            raise UserError(f"loss {name} is in the search already: {there[tuple(genome)]}")
        there[tuple(genome)] = f"given as {name}"
        added.append({"genome": genome, "name": os.path.abspath(name) if os.path.exists(name) else name})
    if why := _takes_no_more(settings, evaluations, told, len(waiting(folder)) + len(added)):
        raise UserError(f"{folder} {why}")
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
        for number, loss in enumerate(added):
            file = folder / FOLDER / f"{time.time_ns():020d}_{number:03d}.json"
            write_whole(file, json.dumps(loss).encode())
    except OSError as error:
        raise UserError(f"{folder / FOLDER} cannot be written: {error.strerror or error}") from None
    return f"{len(added)} loss{'es' * (len(added) > 1)} enqueued, {prospect(folder)}"


def _takes_no_more(
    settings: Mapping[str, Any], evaluations: Sequence[Evaluation], told: Collection[int], losses: int
) -> str:
    """Why a search whose generations cannot become more trains no further losses; "" where it does."""
    if settings.get("algorithm") not in FIXED_LENGTH:
        return ""
    generation, over = _next_generation(settings, told)
    if over:
        why = f"has begun its last generation, the {generation - 1}"
    elif settings.get("generations") is None and _proxies_until(generation, settings, evaluations, told, losses) > (
        limit := settings["evaluations"]
    ):
        why = f"its {limit} proxies leave no room for more"
    else:
        return ""
    return f"searches with {settings['algorithm']} and {why}; begin another search with --init"


def _next_generation(settings: Mapping[str, Any], told: Collection[int]) -> tuple[int, bool]:
    """The one that takes in what waits, and whether it is more than the search was to have."""
    generation = max(1 + max(told, default=-1), 1 + _taken(settings)["until"])
    planned = settings.get("generations") or settings.get("rounds")
    return generation, planned is not None and generation >= planned


def _proxies_until(
    generation: int,
    settings: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
    told: Collection[int],
    losses: int,
) -> int:
    """Proxies that the search has made when a generation that takes in so many losses is over; its repeats apart."""
    ended = [e for e in evaluations if e.stage in PROXIES and e.status != INTERRUPTED and e.attempt == 1]

    def asked_for(number: int) -> int:
        elite = settings.get("elite", 0) if settings.get("algorithm") == "ga" and number else 0
        return settings.get("population", 0) - elite

    rest, before = 0, generation - 1
    if before >= 0 and before not in told:
        there = sum(e.generation == before and e.stage != REPEAT for e in ended)
        taken = sum(loss["generation"] == before for loss in _taken(settings)["losses"])
        rest = max(0, asked_for(before) + taken - there)
    return len(ended) + rest + asked_for(generation) + losses


def prospect(output: str | os.PathLike[str]) -> str:
    """When what waits in a search's folder will be trained, or what it takes."""
    folder = Path(output)
    with Store(folder / STORE, readonly=True) as store:
        settings, evaluations, told = store.settings(), store.evaluations(), store.told()
    losses = len(waiting(folder))
    if why := _takes_no_more(settings, evaluations, told, losses):
        return f"but {folder} {why}"
    generation, over = _next_generation(settings, told)
    limit, needed = settings.get("evaluations"), _proxies_until(generation, settings, evaluations, told, losses)
    spent = limit is not None and needed > limit
    resume = shlex.join(["paramap", "evolve", "--resume", "--output-dir", str(folder)])
    if not over and not spent:
        return f"trained with generation {generation}" + ("" if lock.held(folder) else f": {resume}")
    ends, more = [], []
    if over:
        ends.append(f"generation {settings['generations'] - 1} was to be the last")
        more.append(f"--generations {generation + 1}")
    if spent:
        ends.append(f"{limit} proxies leave no room")
        more.append(f"--evaluations {needed}")
    return f"but {' and '.join(ends)}: {resume} {' '.join(more)} trains more"
