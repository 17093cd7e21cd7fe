import pytest
from made_searches import SPACE, row

from paramap_d2.errors import UserError
from paramap_d2.search.comparison import COLUMNS, Compared, differing_settings, read_searches
from paramap_d2.search.confirmation import confirmation_seed
from paramap_d2.search.store import Store, StoreError

START, FOUND = [0.5] * SPACE.genes, [0.25] * SPACE.genes
SETTINGS = {"metric": "AP", "algorithm": "ga", "initial": [START], "options": {"init": ["linear"]}, "planned": 8}
NAMED = {"challenger": FOUND, "start": START, "role": "centre", "seeds": 2, "iterations": 100}


def confirming(genome, *fitnesses):
    return [
        row(20 + i, 0, f, genome=genome, stage="confirm", planned=100, seed=confirmation_seed(0, [], i), seconds=1800.0)
        for i, f in enumerate(fitnesses)
    ]


def cells(search):
    return dict(zip(COLUMNS, search.row(), strict=True))


PROXIES = [
    row(1, 0, 20.0, genome=START, seconds=1800.0),
    row(2, 0, 0.0, "failed", seconds=1800.0, cause="killed"),
    row(3, 0, 0.0, "interrupted", seconds=1800.0),
    row(4, 0, 30.0, genome=FOUND, seconds=1800.0),
    row(5, 0, 24.0, genome=FOUND, seed=1, stage="repeat", seconds=1800.0),
]


def test_what_a_running_search_has_come_to():
    assert cells(Compared("one", PROXIES, SETTINGS)) == {
        "search": "one",
        "algorithm": "ga",
        "proxies": "4 of 9",  # repeats come on top
        "best": "AP 27.00 (2 seeds)",
        "of": "#4",
        "start": "20.00",
        "gain": "not confirmed",
        "95 % interval": "–",
        "training": "2 h 30 min",
        "failures": "1 failed",
    }


def test_a_confirmed_one_tells_its_gain():
    rows = PROXIES + confirming(FOUND, 30.0, 32.0) + confirming(START, 26.0, 27.0)
    told = cells(Compared("one", rows, {**SETTINGS, "confirmation": NAMED}))
    assert (told["gain"], told["best"], told["of"]) == ("+4.50", "AP 31.00 (2 seeds)", "#4")
    low, high = told["95 % interval"].split(" to ")
    assert float(low.replace("−", "-")) < 4.5 < float(high)
    told = cells(Compared("one", rows, {**SETTINGS, "confirmation": {**NAMED, "challenger": START}}))
    assert (told["gain"], told["of"]) == ("start kept", "linear")


def test_nothing_is_a_row_too():
    assert cells(Compared("one", [], {}))["best"] == "–" and not Compared("one", [], {}).best_so_far()


def test_the_best_so_far_over_proxies_and_hours():
    assert Compared("one", PROXIES, SETTINGS).best_so_far() == [
        (1, 0.5, 20.0),
        (2, 1.0, 20.0),
        (3, 2.0, 30.0),  # what was interrupted was paid for
        (4, 2.5, 27.0),
    ]


def test_searches_are_called_by_what_tells_them_apart(tmp_path):
    for folder in ("a/out", "b/out", "c/other"):
        (tmp_path / folder).mkdir(parents=True)
        with Store(tmp_path / folder / "search.db") as store:
            store.write_settings({"space": SPACE.describe()})
    paths = [tmp_path / "a/out", tmp_path / "b/out", tmp_path / "c/other"]
    assert [search.name for search in read_searches(paths)] == ["a/out", "b/out", "c/other"]
    assert [search.name for search in read_searches(paths[1:])] == ["out", "other"]
    with pytest.raises(UserError, match="a/out is named twice"):
        read_searches([paths[0], tmp_path / "b" / ".." / "a" / "out"])
    with pytest.raises(StoreError, match="no search there"):
        read_searches([tmp_path])


def test_settings_that_differ():
    one = {"algorithm": "ga", "config": {"A": "1", "B": "2"}, "space": {"points": 4}, "options": {"x": 1}, "seed": 0}
    other = {"algorithm": "ppo", "config": {"A": "1", "C": "3"}, "space": {"points": 3}, "options": {"x": 2}}
    assert differing_settings([Compared("one", [], one), Compared("other", [], other)]) == {
        "algorithm": ["ga", "ppo"],
        "B": ["2", None],
        "C": [None, "3"],
        "space.points": [4, 3],
    }


def test_a_proxy_that_was_tried_again_is_one():
    again = [
        row(1, 0, 0.0, "failed", cause="killed", position=1, genome=START),
        row(2, 0, 20.0, position=1, genome=START, attempt=2),
        row(3, 0, 30.0, position=2, genome=FOUND),
    ]
    search = Compared("one", again, {**SETTINGS, "planned": 2})
    assert cells(search)["proxies"] == "2" and cells(search)["failures"] == "1 failed"
    assert [(count, best) for count, _, best in search.best_so_far()] == [(1, 20.0), (2, 30.0)]
