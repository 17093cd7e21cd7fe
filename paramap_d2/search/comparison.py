"""Several searches side by side: what each has come to, at what cost, and in which settings they differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError

from .candidates import Candidate, fitness_text, last_tries, leading_means, ranked_candidates
from .confirmation import Verdict, handed_over, signed, starting_loss, verdict
from .names import all_names
from .status import Progress, duration, progress, read_search
from .store import Evaluation

COLUMNS = ("search", "algorithm", "proxies", "best", "of", "start", "gain", "95 % interval", "training", "failures")
"""Of :meth:`Compared.row`."""

_OWN = (
    "confirmation",
    "decided",
    "folder",
    "initial",
    "options",
    "planned",
    "environment",
    "changes",
    "loss_keys",
    "config_loss",
)
"""Settings that follow from others, are told elsewhere or say nothing about a search."""


@dataclass(frozen=True)
class Compared:
    """One search."""

    name: str
    evaluations: list[Evaluation]
    settings: dict[str, Any]

    @property
    def metric(self) -> str:
        return self.settings.get("metric", "AP")

    @property
    def best(self) -> Candidate | None:
        """The loss that it hands over, or would now."""
        return handed_over(self.evaluations, self.settings)

    @property
    def confirmed(self) -> Verdict | None:
        return verdict(self.evaluations, self.settings)

    @property
    def progress(self) -> Progress:
        return progress(self.evaluations, self.settings)

    @property
    def proxies(self) -> list[Evaluation]:
        """Those that have ended, in that order, each with its last try."""
        return last_tries(self.evaluations)

    def best_so_far(self) -> list[tuple[int, float, float]]:
        """After each proxy from the first success on: how many there were, the hours spent on all training until then,
        and the highest mean so far."""
        spent = {
            e.id: seconds / 3600
            for e, seconds in zip(self.evaluations, accumulate(e.seconds for e in self.evaluations), strict=True)
        }
        led = enumerate(zip(self.proxies, leading_means(self.proxies), strict=True), 1)
        return [(count, spent[e.id], best) for count, (e, best) in led if best is not None]

    def row(self) -> list[str]:
        """A line of a table; a dash for what is not known."""
        names, best, found = all_names(self.evaluations, self.settings), self.best, self.confirmed
        gain = interval = "–"
        if found is None:
            gain = "not confirmed"
        elif found.gain is not None:
            gain = signed(found.gain)
            interval = " to ".join(map(signed, found.interval)) if found.interval else "–"
        elif found.challenger == found.start:
            gain = "start kept"
        now = self.progress
        failures = ", ".join(f"{count} {status}" for status, count in now.failures.items()) or "none"
        return [
            self.name,
            str(self.settings.get("algorithm", "–")),
            str(len(self.proxies)) + (f" of {now.planned}" if now.planned and now.planned > now.done else ""),
            f"{self.metric} {fitness_text(best)}" if best else "–",
            names[tuple(best.genome)] if best else "–",
            self._start(),
            gain,
            interval,
            duration(now.compute_seconds),
            failures,
        ]

    def _start(self) -> str:
        """The proxies' mean of the best loss that it began with."""
        if not self.settings.get("initial"):
            return "–"
        genome = starting_loss(self.settings["initial"], self.evaluations)
        means = [c.mean for c in ranked_candidates(self.evaluations) if c.genome == genome and c.evaluations]
        return f"{means[0]:.2f}" if means else "–"


def read_searches(folders: Sequence[str | os.PathLike[str]]) -> list[Compared]:
    """The searches in some folders, which may be running, called by as much of their paths as tells them apart.

    Raises:
        UserError: a folder is named twice, or holds no search that can be read.
    """
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{twice} is named twice; a search is compared with others")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return [Compared(os.path.join(*path.parts[-length:]), *read_search(path)) for path in paths]


def differing_settings(searches: Sequence[Compared]) -> dict[str, list[Any]]:
    """Of settings, those of config, data and space key by key, that are not the same everywhere: the value in each
    search, None where it has none. Of what a store does not tell at all, as older ones do not of all, nothing is said.
    """
    told = [key for key in dict.fromkeys(key for s in searches for key in s.settings) if key not in _OWN]
    told = [key for key in told if all(key in s.settings for s in searches)]
    found = {}
    for key in told:
        values = [search.settings[key] for search in searches]
        if key not in ("config", "data", "space"):
            found[key] = values
            continue
        for inner in dict.fromkeys(inner for value in values for inner in value):
            found[inner if key == "config" else f"{key}.{inner}"] = [value.get(inner) for value in values]
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}
