"""What the losses of a search are called: those that it began with or that a user enqueued have names, the others the
number of their row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .algorithms.sampling import rounded
from .store import PROXIES, Evaluation


def loss_names(settings: Mapping[str, Any]) -> dict[tuple[float, ...], str]:
    """Names of the losses that a search began with, by their genomes: as ``--init`` has them, or the config's own; and
    of those that were enqueued.

    Args:
        settings: of the store. One of an older version may not say how its first losses were named; they are numbered.
    """
    genomes = [tuple(rounded(genome)) for genome in settings.get("initial") or []]
    given = (settings.get("options") or {}).get("init")
    if given is None and "config_loss" in settings:
        given = [settings["config_loss"]] * (len(genomes) - 1) + ["identity"]
    if given is None or len(given) != len(genomes):
        given = [f"start {number}" for number in range(1, len(genomes) + 1)]
    names: dict[tuple[float, ...], str] = {}
    for genome, name in zip(genomes, given, strict=True):
        names.setdefault(genome, short_name(name))
    for loss in (settings.get("enqueued") or {}).get("losses", ()):
        names.setdefault(tuple(loss["genome"]), short_name(loss["name"]))
    return names


def all_names(evaluations: Iterable[Evaluation], settings: Mapping[str, Any]) -> dict[tuple[float, ...], str]:
    """What every loss of a search is called. One that was never asked for is the algorithm's centre; a search that went
    on after its end has several."""
    names = loss_names(settings)
    centre = f"centre of {settings.get('algorithm', 'the search')}"
    centres = 0
    for e in sorted(evaluations, key=lambda e: (e.stage not in PROXIES, e.id)):
        if tuple(e.genome) in names:
            continue
        if e.stage not in PROXIES:
            centres += 1
        names[tuple(e.genome)] = f"#{e.id}" if e.stage in PROXIES else numbered(centre, centres)
    return names


def numbered(name: str, number: int) -> str:
    """The first of several by the name alone."""
    return name if number == 1 else f"{name} {number}"


def short_name(name: str) -> str:
    """A preset's name as it is; of a file its name and its folder's, since many are called ``best.json``."""
    path = Path(name)
    return os.path.join(path.parent.name, path.stem) if path.suffix == ".json" else name
