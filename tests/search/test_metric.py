from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.metric import check_metric
from paramap_d2.search.proxies.proxy import figures_of


@dataclass
class Config:
    results: dict
    own_evaluator: bool = True
    tested: tuple = ()

    def untrained(self, folder):
        assert folder.is_dir()
        if isinstance(self.results, Exception):
            raise self.results
        return self.results


def test_a_figure_that_an_own_evaluator_gives():
    check_metric(Config({"bbox": {"mAP": float("nan"), "F1": 0.0}}), "F1", InlineExecutor())


def test_what_stands_beside_the_figures_is_no_matter():
    results = {"bbox": {"AP": 30.0, "per_class": {"cat": 20.0}, "names": ["cat"], "none": None}, "seconds": 1.5}
    assert figures_of(results) == {"bbox/AP": 30.0, "bbox/per_class/cat": 20.0, "seconds": 1.5}
    check_metric(Config(results), "AP", InlineExecutor())
    with pytest.raises(UserError, match="--metric names: .* it gives AP, per_class/cat$"):
        check_metric(Config(results), "names", InlineExecutor())


def test_the_projects_evaluator_is_not_asked_for_what_it_always_gives():
    check_metric(Config(RuntimeError("asked"), own_evaluator=False), "AP50", InlineExecutor())
    check_metric(Config({"bbox": {"AP-circle": 1.0}}, own_evaluator=False), "AP-circle", InlineExecutor())


@pytest.mark.parametrize(
    "metric, there", [("APs", False), ("APm", True), ("APl", False), ("AP-disk", True), ("AP-ring", False)]
)
def test_a_figure_that_the_test_data_have_nothing_of(monkeypatch, metric, there):
    """One object of 40 by 40 pixels is a disk; a crowd and nothing else is a ring."""
    objects = [{"area": 1600.0, "category_id": 1, "iscrowd": 0}, {"area": 1e5, "category_id": 2, "iscrowd": 1}]
    truth = SimpleNamespace(coco={"annotations": objects}, class_names=("disk", "ring"))
    monkeypatch.setattr("paramap_d2.data.evaluation.read_truth", lambda name: truth)
    config = Config({"bbox": {"AP-disk": 1.0, "AP-ring": 1.0}}, own_evaluator=False, tested=("toy_val",))
    if there:
        check_metric(config, metric, InlineExecutor())
    else:
        with pytest.raises(UserError, match=f"--metric {metric}: data set 'toy_val' has no object that it counts"):
            check_metric(config, metric, InlineExecutor())


@pytest.mark.parametrize(
    "results, words",
    [
        ({"bbox": {"mAP": 1.0, "F1": 0.5}}, "--metric AP: .* it gives mAP, F1"),
        ({"segm": {"AP": 1.0}}, "--metric AP: .* it gives no figures of boxes"),
        ({}, "--metric AP: .* it gives no figures of boxes"),
        (KeyError("nothing"), "cannot be evaluated on two images: KeyError: 'nothing' .*test_metric.py, line"),
    ],
)
def test_what_is_told_before_anything_is_trained(results, words):
    with pytest.raises(UserError, match=words):
        check_metric(Config(results), "AP", InlineExecutor())


def test_what_an_evaluator_wrote_meanwhile_is_not_referred_to_later():
    from detectron2.data import MetadataCatalog

    class Converts(Config):
        def untrained(self, folder):
            MetadataCatalog.get("converted_toy").json_file = str(folder / "converted_toy_coco_format.json")
            return self.results

    check_metric(Converts({"bbox": {"AP": 0.0}}), "AP", InlineExecutor())
    assert MetadataCatalog.get("converted_toy").get("json_file") is None
    MetadataCatalog.remove("converted_toy")


def test_metadata_that_are_made_when_asked_for_are_not_asked_for():
    from detectron2.data import MetadataCatalog
    from detectron2.data.catalog import Metadata

    class Drawn(Metadata):
        @property
        def json_file(self):
            raise AssertionError("drawn")

    MetadataCatalog["drawn_toy"] = Drawn(name="drawn_toy")
    check_metric(Config({"bbox": {"AP": 0.0}}), "AP", InlineExecutor())
    MetadataCatalog.remove("drawn_toy")
