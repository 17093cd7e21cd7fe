"""The benchmark's bars: which of them a detector misses."""

import copy

import pytest

from benchmarks.calibration import missed

GOOD = {
    "before": {"AP": 50.0, "laece0": 0.1},
    "after": {"AP": 50.0, "laece0": 0.03, "at": {"f1": 0.74}, "best": {"f1": 0.76}},
}
BASELINE = {"after": {"laece0": 0.03}}


@pytest.mark.parametrize(
    "path, value, words",
    [
        ((), None, []),
        (("after", "AP"), 49.999, ["AP changes"]),
        (("after", "at", "f1"), 0.7, ["F1 0.700 at 0.5"]),
        (("after", "best", "f1"), 0.64, []),
        (("before", "laece0"), 0.05, ["before 0.0500"]),
        (("after", "laece0"), 0.031, ["of focal"]),
    ],
)
def test_bars(path, value, words):
    figures = copy.deepcopy(GOOD)
    if path:
        *parents, key = path
        place = figures
        for parent in parents:
            place = place[parent]
        place[key] = value
    found = missed("RetinaNet", figures, BASELINE)
    assert len(found) == len(words) and all(w in line for w, line in zip(words, found, strict=True))
