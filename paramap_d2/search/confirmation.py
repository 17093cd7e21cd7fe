"""Whether what a search found is better than what it began with: trainings from fresh seeds, and what they say.

One challenger is named before it is confirmed. It and the start are trained from the same seeds, which nothing in the
search has had, and the challenger is handed over if its mean gain is above 0. To choose the best of several confirmed
means would be to choose the luckiest again.

Named is the algorithm's own centre, where noise averages out, unless the best that was seen beats it in a run-off, from
seeds that are neither the search's nor the confirmation's: while a search still climbs, the best may be far above the
mean of what it has tried.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scipy.special import stdtrit

from .algorithms.sampling import rounded
from .candidates import Candidate, best_candidate, ranked_candidates
from .proxies.proxy import Task
from .store import CONFIRM, INTERRUPTED, PROXIES, RUN_OFF, SUPERSEDED, Evaluation

if TYPE_CHECKING:  # it imports torch, which nothing here needs
    from .space import Genome

SEEDS_FROM = 1_000_000_000
"""The search's own seeds stay below; see :func:`confirmation_seed`."""

RUN_OFF_SEEDS = 2
"""From which the two of a run-off are trained."""

MOST_SEEDS = 998
"""Of a confirmation."""

SEEDS_EACH = MOST_SEEDS + RUN_OFF_SEEDS
"""That a search has for itself."""

SEARCHES = 1_000_000
"""How many searches have confirming seeds of their own."""


def confirmation_seed(seed: int, initial: Sequence[Genome], number: int) -> int:
    """The seed of a confirming training, or of a run-off.

    No proxy, repeat or longer final training of any search has it, and no confirmation of a search that begins with
    other losses or has another seed (but by a chance of one in :data:`SEARCHES`): what one search confirmed on its
    seeds, a later one that begins with it confirms on others.

    Args:
        seed: of the search, below :data:`SEEDS_FROM`.
        initial: the genomes that it begins with.
        number: of the training, from 0 and below :data:`MOST_SEEDS`; those of a run-off follow.
    """
    search = json.dumps([seed, [rounded(genome) for genome in initial]])
    own = int(hashlib.sha256(search.encode()).hexdigest(), 16) % SEARCHES
    return SEEDS_FROM + SEEDS_EACH * own + number


@dataclass(frozen=True)
class Verdict:
    """What confirming trainings say of a challenger and the start.

    Attributes:
        challenger, start: their genomes.
        of_challenger, of_start: their confirming evaluations; none where the challenger is the start.
        role: what the challenger is: ``centre``, ``best finalist`` or ``best proxy``.
        looks: how often these two were told apart, this time included; more than once where seeds were added.
    """

    challenger: Genome
    start: Genome
    of_challenger: list[Evaluation]
    of_start: list[Evaluation]
    role: str
    looks: int = 1

    @property
    def gain(self) -> float | None:
        """Mean fitness of the challenger less that of the start; None if either has none."""
        if not (self.of_challenger and self.of_start):
            return None
        return _mean(self.of_challenger) - _mean(self.of_start)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the gain; None where neither loss has two seeds, or none differs from another.

        Whoever adds seeds until the interval leaves 0 out would find that it does in time, whatever the gain. So the
        5 % are divided by the number of looks.
        """
        if self.gain is None:
            return None
        values = ([e.fitness for e in found] for found in (self.of_challenger, self.of_start))
        half = half_width(*values, 0.05 / self.looks)
        return None if half is None else (self.gain - half, self.gain + half)

    @property
    def passed(self) -> bool:
        """Whether the challenger is handed over."""
        return self.gain is not None and self.gain > 0

    @property
    def seeds(self) -> str:
        """Such as ``3 fresh seeds``: how many; a start that an earlier confirmation had too has more."""
        counts = sorted({len(self.of_challenger), len(self.of_start)})
        return f"{' and '.join(map(str, counts))} fresh seed{'s' * (counts[-1] > 1)}"

    def describe(self) -> dict[str, Any]:
        """For a loss file's ``meta``."""
        return {
            "handed_over": "challenger" if self.passed else "start",
            "challenger": self.role,
            "gain": self.gain,
            "interval_95": self.interval,
            "of_challenger": [e.fitness for e in self.of_challenger],
            "of_start": [e.fitness for e in self.of_start],
            "looks": self.looks,
        }


def half_width(first: Sequence[float], second: Sequence[float], outside: float = 0.05) -> float | None:
    """Half of the confidence interval of the difference of two means, by default the 95 % one; None where neither has
    two values, or all values of both are the same, which tells nothing of their noise.

    Welch's: the noise of both, and Student's t with as many degrees of freedom as their spreads leave (Welch 1947, "The
    generalization of 'Student's' problem"). With one value in place of several, a loss has the other's noise. A loss
    that differs more from seed to seed than the other, or that diverged once, so widens the interval by its own spread
    and by the few values that this comes from. Repeats of the search itself do not enter: they are of other losses,
    often worse ones with less noise, and were made because a run was lucky.
    """
    spreads = [statistics.variance(values) if len(values) > 1 else None for values in (first, second)]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return None
    parts = [
        (spread if spread is not None else known[0]) / len(values)
        for spread, values in zip(spreads, (first, second), strict=True)
    ]
    error = sum(parts)
    if error == 0:
        return None
    freedom = 1 / sum(  # of shares, since squares of the parts themselves may be too small for a number
        (part / error) ** 2 / (len(values) - 1)
        for part, values in zip(parts, (first, second), strict=True)
        if len(values) > 1
    )
    freedom = min(freedom, sum(len(v) - 1 for v in (first, second)))
    return float(stdtrit(freedom, 1 - outside / 2)) * math.sqrt(error)


def starting_loss(initial: Sequence[Genome], done: Iterable[Evaluation]) -> Genome:
    """The best of the losses that a search began with, by the means of their proxies; the first if none has one."""
    begun = [rounded(genome) for genome in initial]
    means = {tuple(c.genome): c.mean for c in ranked_candidates(done) if c.evaluations}
    return max(begun, key=lambda genome: means.get(tuple(genome), -math.inf))


def rivals(centre: Genome | None, best: Genome, start: Genome) -> list[Genome]:
    """Those that may challenge the start, itself apart: the centre, where the algorithm has one, and the best seen."""
    return [genome for genome in ([best] if centre in (None, best) else [centre, best]) if genome != start]


def winner(of_centre: Iterable[Evaluation], of_best: Iterable[Evaluation]) -> int:
    """Of a run-off: 1, the best seen, if it was above the centre whatever the seeds of the two, else 0, the centre.

    By the means of the two, a best seen that was merely lucky would win too often over a better centre.
    """
    found = [[e.fitness for e in of if e.counts] for of in (of_centre, of_best)]
    if not all(found):  # the machine failed one
        return int(not found[0])
    return int(min(found[1]) > max(found[0]))


def run_off_tasks(tasks: Sequence[Task], seed: int, initial: Sequence[Genome]) -> list[Task]:
    """The trainings of a run-off between the losses of these tasks, seed by seed."""
    return _from_seeds(tasks, RUN_OFF, seed, initial, range(MOST_SEEDS, SEEDS_EACH))


def confirming_tasks(challenger: Task, start: Task, seed: int, initial: Sequence[Genome], count: int) -> list[Task]:
    """The trainings of a challenger and the start, seed by seed."""
    return _from_seeds((challenger, start), CONFIRM, seed, initial, range(count))


def _from_seeds(
    tasks: Sequence[Task], stage: str, seed: int, initial: Sequence[Genome], numbers: Iterable[int]
) -> list[Task]:
    seeds = [confirmation_seed(seed, initial, number) for number in numbers]
    return [replace(task, seed=s, stage=stage) for s in seeds for task in tasks]


def verdict(evaluations: Iterable[Evaluation], settings: Mapping[str, Any]) -> Verdict | None:
    """What the confirmation in a store says; None where none has been made, or not yet to its end.

    Args:
        settings: of the store: ``confirmation`` tells which losses are confirmed and from how many seeds.
    """
    named = settings.get("confirmation")
    if not named:
        return None
    challenger, start = named["challenger"], named["start"]
    role = named["role"]
    if challenger == start:
        return Verdict(challenger, start, [], [], role)
    looks = named.get("looks", 1)
    rows = [e for e in evaluations if e.stage == CONFIRM and (e.planned or None) == named["iterations"]]
    of: list[dict[int, Evaluation]] = [
        {e.seed: e for e in rows if e.genome == g and e.status != INTERRUPTED and e.round != SUPERSEDED}
        for g in (challenger, start)
    ]
    if min(map(len, of)) < named["seeds"]:
        return None
    counting = ([found[seed] for seed in sorted(found) if found[seed].counts] for found in of)
    return Verdict(challenger, start, *counting, role, looks)


def looks(evaluations: Iterable[Evaluation], settings: Mapping[str, Any], confirmation: Mapping[str, Any]) -> int:
    """How often a confirmation that is to be made will have told its two losses apart: once more than that in the store
    where that is of the same two, has come to its end and had fewer seeds."""
    before = settings.get("confirmation") or {}
    if any(before.get(key) != confirmation[key] for key in ("challenger", "start", "iterations")):
        return 1
    more = confirmation["seeds"] > before["seeds"] and verdict(evaluations, settings) is not None
    return before.get("looks", 1) + more


def handed_over(evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> Candidate | None:
    """The loss that a search ends with, or would if it ended now: what its confirmation says, with the confirming
    trainings; without one the best that was seen."""
    found = verdict(evaluations, settings)
    if found is None:
        return best_candidate(evaluations)
    genome, confirming = (found.challenger, found.of_challenger) if found.passed else (found.start, found.of_start)
    rows = confirming or [e for e in evaluations if e.genome == genome and e.counts and e.stage in PROXIES]
    return Candidate(rows) if rows else None


def verdict_text(found: Verdict, metric: str) -> str:
    """Which loss is handed over, and why, in one line."""
    if found.challenger == found.start:
        return f"start handed over: the {found.role} is the loss that the search began with"
    if found.gain is None:
        return "start handed over: confirming trainings failed"
    text = f"{'challenger' if found.passed else 'start'} handed over: challenger ({found.role}) − start "
    text += f"{signed(found.gain)} {metric}"
    if found.interval is not None:
        text += f", 95 % interval {signed(found.interval[0])} to {signed(found.interval[1])}"
    return f"{text} ({_mean(found.of_challenger):.2f} and {_mean(found.of_start):.2f} from {found.seeds})"


def signed(value: float) -> str:
    """Such as +1.24 or −0.80."""
    return f"{value:+.2f}".replace("-", "−")


def _mean(evaluations: Sequence[Evaluation]) -> float:
    return statistics.fmean(e.fitness for e in evaluations)
