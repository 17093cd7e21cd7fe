"""What stores of older versions leave out and can be made good from the rest of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def told_by_version_2(rows: Iterable[Row]) -> dict[int, tuple[list[float], dict[tuple[float, ...], float]]]:
    """What an algorithm was told after every generation that has a later one, before stores kept it: the fitnesses of
    the genomes asked for, and the means of those trained from several seeds until then, failures of all kinds as 0.

    Args:
        rows: of evaluations in the order of ``id``: ``id``, ``generation``, ``position``, ``genome``, ``seed``,
            ``stage``, ``status``, ``fitness``.
    """
    proxies = [row for row in rows if row["stage"] != "final"]
    begun: dict[int, int] = {}  # id of the first row of a generation
    for row in proxies:
        if row["stage"] == "search":
            begun.setdefault(row["generation"], row["id"])
    ended = [row for row in proxies if row["status"] != "interrupted"]
    told = {}
    for generation in begun:
        if generation + 1 not in begun:
            continue
        asked: dict[int, Row] = {}
        seeds: dict[tuple[float, ...], dict[int, float]] = defaultdict(dict)
        finished = set()
        for row in ended:
            if row["id"] >= begun[generation + 1]:
                break
            if row["stage"] == "search" and row["generation"] == generation:
                asked[row["position"]] = row
            seeds[tuple(row["genome"])][row["seed"]] = row["fitness"]
            if row["status"] == "finished":
                finished.add(tuple(row["genome"]))
        means = {g: statistics.fmean(by.values()) for g, by in seeds.items() if g in finished and len(by) > 1}
        fitnesses = [means.pop(tuple(row["genome"]), row["fitness"]) for _, row in sorted(asked.items())]
        told[generation] = fitnesses, means
    return told
