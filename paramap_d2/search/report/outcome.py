"""What a search has come to, in words: the first that its page says."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramap_d2.search.candidates import Candidate, fitness_text, ranked_candidates
from paramap_d2.search.confirmation import Verdict, signed, starting_loss, verdict_text
from paramap_d2.search.store import Evaluation

Names = Mapping[tuple[float, ...], str]


@dataclass(frozen=True)
class Outcome:
    """``figure`` and ``unit`` are the one number that matters; empty where there is none."""

    heading: str
    figure: str = ""
    unit: str = ""
    lines: list[str] = field(default_factory=list)


def outcome(
    evaluations: Sequence[Evaluation],
    settings: Mapping[str, Any],
    best: Candidate | None,
    found: Verdict | None,
    names: Names,
    folder: Path,
) -> Outcome:
    """
    Args:
        best: the loss that would be handed over now.
        found: what its confirmation says, if there was one.
        names: of all losses.
    """
    metric = settings.get("metric", "AP")
    if found is not None:
        return _confirmed(found, names, metric)
    if best is None:
        return Outcome("Nothing found yet", lines=[f"No evaluation has reached an {metric} yet."])
    lines = [f"{names[tuple(best.genome)]}: {metric} {fitness_text(best)}{_start(best, evaluations, settings, names)}."]
    luck = "The highest of many noisy trainings is a lucky one: its gain over the start is known when both have been"
    confirm = (settings.get("options") or {}).get("confirm")
    if confirm == 0:
        command = shlex.join(["paramap", "evolve", "--resume", "--output-dir", str(folder), "--confirm", "3"])
        lines.append(f"{luck} trained from fresh seeds, which this search leaves out (--confirm 0): {command}")
    else:
        lines.append(f"{luck} trained from fresh seeds, at the end of the search.")
    return Outcome("Not confirmed", f"{(best.final or best).mean:.2f}", f"{metric}, the highest seen", lines)


def _confirmed(found: Verdict, names: Names, metric: str) -> Outcome:
    heading = "Gain over the start" if found.passed else "No gain over the start"
    start = names.get(tuple(found.start), "the start")
    challenger = names.get(tuple(found.challenger), "the challenger")
    if found.role not in challenger:
        challenger += f" ({found.role})"
    if found.gain is None:
        said = verdict_text(found, metric)
        return Outcome(heading, lines=[f"{said[0].upper()}{said[1:]}. ({start})"])
    means = [statistics.fmean(e.fitness for e in of) for of in (found.of_challenger, found.of_start)]
    if found.passed:
        said = f"{challenger} is handed over, with {metric} {means[0]:.2f}; {start} has {means[1]:.2f}"
    else:
        said = f"{start} is handed over, with {metric} {means[1]:.2f}; the challenger, {challenger}, has {means[0]:.2f}"
    lines = [f"{said}. Both are means from {found.seeds}."]
    if found.interval is None:
        one = max(len(found.of_challenger), len(found.of_start)) < 2
        if one:
            lines.append("From one seed no interval can be given: more come with --resume --confirm N.")
        else:
            lines.append(
                "Every seed gave the same figure, so no interval can be given: does the training use its seed?"
            )
        return Outcome(heading, signed(found.gain), f"{metric} over {start}", lines)
    low, high = found.interval
    if low <= 0 <= high:
        lines.append("The interval holds 0: this may be chance. More seeds narrow it: --resume --confirm N.")
    if found.looks > 1:
        lines.append(f"As seeds were added, this is look {found.looks} at the gain: for that the interval is wider.")
    unit = f"{metric} over {start}, 95 % interval {signed(low)} to {signed(high)}"
    return Outcome(heading, signed(found.gain), unit, lines)


def _start(best: Candidate, evaluations: Sequence[Evaluation], settings: Mapping[str, Any], names: Names) -> str:
    """Such as ``; the start, linear: 14.06``; empty before it has been trained."""
    if not settings.get("initial"):
        return ""
    start = tuple(starting_loss(settings["initial"], evaluations))
    if start == tuple(best.genome):
        return ", the loss that the search began with"
    for candidate in ranked_candidates(evaluations):
        if tuple(candidate.genome) == start and candidate.evaluations:
            return f"; the start, {names[start]}: {fitness_text(candidate)}"
    return ""
