import pytest

from paramap_d2.search.stopping import CHECKPOINTS, LATEST, RULES, checkpoints
from paramap_d2.search.store import Evaluation


def evaluation(*aps, status="finished", **more):
    curve = [[25 * (i + 1), ap] for i, ap in enumerate(aps)]
    return Evaluation(0, 0, [0.5], 0, status, 50.0, curve=curve, **more)


def test_without_a_rule_nothing_is_looked_at():
    assert checkpoints("none", [evaluation(1.0, 2.0)] * 9) == []


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"none"}))
def test_the_first_generation_is_only_noted(rule):
    assert checkpoints(rule, []) == [(share, None) for share in CHECKPOINTS]
    assert checkpoints(rule, [evaluation(1.0, 2.0)] * 3) == [(share, None) for share in CHECKPOINTS]


def test_median():
    earlier = [evaluation(ap, 10 * ap) for ap in (1.0, 2.0, 3.0, 4.0, 9.0)]
    assert checkpoints("median", earlier) == [(0.25, 3.0), (0.5, 30.0)]


def test_halving_keeps_what_reaches_the_best_quarter():
    earlier = [evaluation(float(ap), 10.0 * ap) for ap in (5, 3, 8, 6, 1, 2, 4, 7)]
    assert checkpoints("halving", earlier) == [(0.25, 7.0), (0.5, 70.0)]


def test_only_whole_first_proxies_are_compared_with():
    earlier = [evaluation(ap, 10 * ap) for ap in (1.0, 2.0, 3.0, 4.0)]
    earlier += [evaluation(0.5, status="stopped")]  # came to the first checkpoint alone
    noise = [
        evaluation(99.0, 99.0, stage="repeat"),
        evaluation(99.0, 99.0, stage="final"),
        evaluation(99.0, status="failed"),
        evaluation(status="diverged"),
    ]
    assert checkpoints("median", earlier + noise) == [(0.25, 2.0), (0.5, 25.0)]


def test_a_better_population_is_compared_with_itself():
    """Of ever better proxies a quarter passes, not all of them."""
    earlier = [evaluation(float(ap)) for ap in range(100)]
    (_, least), _ = checkpoints("halving", earlier)
    assert least == 96.0
    assert checkpoints("median", earlier)[0] == (0.25, 100 - LATEST / 2 - 0.5)
    assert checkpoints("halving", earlier) == checkpoints("halving", earlier[-LATEST:])
