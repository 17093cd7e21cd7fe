"""Searching one head of a detector while the other keeps its loss."""

import fake_proxies
import pytest

from paramap_d2.errors import UserError
from paramap_d2.losses import load_loss
from paramap_d2.search import session
from paramap_d2.search.deadline import TimeUp
from paramap_d2.search.life import overview
from paramap_d2.search.session import SearchOptions, run_search
from paramap_d2.search.status import read_search
from paramap_d2.search.store import Store, StoreError


class FakeConfig:
    """A config whose proxies are made up."""

    loss = "linear"
    defaults = {}
    datasets = tested = ()
    loss_keys = ["MODEL.PARAM_AP.LOSS"]
    settings = {"SOLVER.MAX_ITER": "10"}
    own_evaluator = False

    def __init__(self, *heads):
        self.heads = heads


class FakeExecutor:
    workers, threads = 1, 1

    def run(self, evaluate, tasks, on_start=None):
        for place, task in enumerate(tasks):
            # What a proxy would train with: all heads, whichever is searched.
            assert set(evaluate.space.decode(task.genome)) == set(evaluate.config.heads)
            yield place, fake_proxies.target_distance(task)

    def close(self):
        pass


class OutOfTime(FakeExecutor):
    """Its time is over after three trainings."""

    def run(self, evaluate, tasks, on_start=None):
        for order, ended in enumerate(super().run(evaluate, tasks, on_start)):
            if order == 3:
                raise TimeUp
            yield ended


@pytest.fixture
def search(tmp_path, monkeypatch):
    def run(detector, executor=FakeExecutor, **more):
        monkeypatch.setattr(session, "read_proxy_config", lambda *_: FakeConfig(*detector))
        monkeypatch.setattr(session, "_executor", lambda options: executor())
        options = {"population": 4, "generations": 2, "points": 1, "init": ["linear"], **more}
        return run_search(SearchOptions("config.yaml", str(tmp_path / "out"), **options))

    return run


@pytest.mark.parametrize("searched, kept", [("rpn", "roi"), ("roi", "rpn")])
def test_one_head_is_searched_and_the_other_kept(search, tmp_path, searched, kept):
    best = search(("rpn", "roi"), heads=[searched], fixed="fasterrcnn-coco")
    assert len(best.genome) == 5 * 2 + 1
    losses = load_loss(tmp_path / "out" / "best.json")
    assert losses[kept] == load_loss("fasterrcnn-coco")[kept]
    assert losses[searched] != load_loss("fasterrcnn-coco")[searched]
    with Store(tmp_path / "out" / "search.db", readonly=True) as store:
        space = store.settings()["space"]
    assert space["heads"] == [searched] and list(space["fixed"]) == [kept]
    assert (tmp_path / "out" / "report.html").stat().st_size > 0


def test_all_heads_in_the_detectors_order(search, tmp_path):
    best = search(("rpn", "roi"), heads=["roi", "rpn"])
    assert len(best.genome) == 2 * (5 * 2 + 1)
    assert list(load_loss(tmp_path / "out" / "best.json")) == ["rpn", "roi"]


def test_what_the_end_of_the_time_cuts_off_hands_over_what_there_is_and_goes_on(search, tmp_path):
    best = search(("dense",), OutOfTime, hours=2.5, confirm=0)
    assert best.mean > 0
    life, text = overview(tmp_path / "out")
    assert life.state == "interrupted" and "after 2.5 h, as --hours has it" in text and "--resume" in text
    assert len(read_search(tmp_path / "out")[0]) == 3
    search(("dense",), resume=True, confirm=0)
    assert overview(tmp_path / "out")[0].state == "done"


def test_a_loss_of_one_head_is_enough_to_fix_it(search, tmp_path):
    search(("rpn", "roi"), heads=["roi"], fixed="linear")
    loss = tmp_path / "rpn.json"
    from paramap_d2.losses import save_loss

    save_loss(loss, {"rpn": load_loss("linear")["rpn"]})
    # The same losses by another name: the same search.
    search(("rpn", "roi"), heads=["roi"], fixed=str(loss), resume=True)
    with pytest.raises(StoreError, match="another search: --fixed"):
        search(("rpn", "roi"), heads=["roi"], fixed="fasterrcnn-coco", resume=True)
    with pytest.raises(StoreError, match="another search: --"):
        search(("rpn", "roi"), resume=True)


@pytest.mark.parametrize(
    "detector, more, message",
    [
        (("dense",), {"heads": ["roi"]}, "no head 'roi'; it has dense"),
        (("rpn", "roi"), {"heads": ["dense"], "fixed": "linear"}, "no head 'dense'; it has rpn, roi"),
        (("rpn", "roi"), {"heads": ["roi"]}, "leaves rpn out: give its loss with --fixed"),
        (("rpn", "roi"), {"heads": ["roi"], "fixed": "retinanet-coco"}, "retinanet-coco has no head 'rpn'"),
        (("rpn", "roi"), {"heads": ["roi"], "fixed": "nowhere.json"}, "'nowhere.json' is neither a preset"),
        (("rpn", "roi"), {"fixed": "fasterrcnn-coco"}, "no head is left to fix; say with --heads"),
        (("dense",), {"heads": ["dense"], "fixed": "linear"}, "no head is left to fix"),
        (("rpn", "roi"), {"heads": [""], "fixed": "linear"}, "no head ''"),
    ],
)
def test_heads_that_do_not_fit_start_nothing(search, tmp_path, detector, more, message):
    with pytest.raises(UserError, match=message) as raised:
        search(detector, **more)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_the_loss_that_is_handed_over_comes_with_what_decided(search):
    """Of a centre there are no proxies, and of its final trainings a mean."""
    best = search(["dense"], final_iters=20, confirm=0)
    assert {e.stage for e in best.evaluations} == {"final"} and best.mean == best.first.fitness
