"""What makes two searches the same, and what a resumed one takes from its store."""

import os
import sqlite3

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.options import SearchOptions, merged_opts, resumed_options
from paramap_d2.search.settings import open_store
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import CONFIRM, FINAL, SEARCH, SUPERSEDED, Evaluation, Store, StoreError, Told

SPACE = SearchSpace(("dense",), points=1, mode="shared").describe()
CONFIG = {"SOLVER.MAX_ITER": "100", "augmentations.0": "Flip"}
SETTINGS = {"config": CONFIG, "space": SPACE, "seed": 1, "stopping": "none", "data": {"bccd_train": "12ab"}}


def opened(folder, change=None, resume=True, kept=None, **more):
    with open_store(folder, {**SETTINGS, **(change or {})}, kept or {}, resume, **more) as store:
        return store.settings()


def test_a_new_search_and_the_same_again(tmp_path):
    assert opened(tmp_path / "new", resume=False, kept={"workers": 1}) == {**SETTINGS, "workers": 1}
    assert opened(tmp_path / "new", kept={"workers": 2}) == {**SETTINGS, "workers": 2}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 2}, "another search: --seed was 1 there and is 2 now; choose another output folder"),
        ({"space": {**SPACE, "points": 4}}, "another search: --points was 1 there and is 4 now"),
        ({"stopping": "median"}, "--stop was none there and is median now; --accept-changes goes on"),
        ({"config": {**CONFIG, "SOLVER.MAX_ITER": "50"}}, "SOLVER.MAX_ITER was 100 there and is 50 now"),
        ({"config": {**CONFIG, "augmentations.1": "Crop"}}, "augmentations.1 was not there and is Crop now"),
        ({"config": {"SOLVER.MAX_ITER": "100"}}, "augmentations.0 was Flip there and is gone now"),
        ({"data": {"bccd_train": "34cd"}}, "the content of data set bccd_train has changed; --accept-changes"),
        ({"data": {"bccd_val": "12ab"}}, "data set bccd_train was 12ab there and is gone now .and 1 more.; --accept"),
    ],
)
def test_another_search_is_refused_and_left_alone(tmp_path, change, message):
    opened(tmp_path, resume=False)
    before = (tmp_path / "search.db").read_bytes()
    with pytest.raises(StoreError, match=message):
        opened(tmp_path, change)
    assert (tmp_path / "search.db").read_bytes() == before


def test_a_search_that_is_there_is_not_begun_again(tmp_path):
    opened(tmp_path, resume=False)
    with pytest.raises(StoreError, match="already holds this search; add --resume to go on, or choose"):
        opened(tmp_path, resume=False)
    with pytest.raises(StoreError, match="already holds another search: --seed was 1"):
        opened(tmp_path, {"seed": 2}, resume=False)


def test_what_changed_is_accepted_once_and_recorded(tmp_path):
    opened(tmp_path, resume=False)
    change = {"config": {**CONFIG, "SOLVER.MAX_ITER": "50"}, "data": {"bccd_train": "34cd"}}
    settings = opened(tmp_path, change, accept_changes=True)
    assert settings["changes"][0]["changes"] == [
        "SOLVER.MAX_ITER was 100 there and is 50 now",
        "the content of data set bccd_train has changed",
    ]
    assert opened(tmp_path, change)["data"] == {"bccd_train": "34cd"}
    assert len(opened(tmp_path, accept_changes=True)["changes"]) == 2
    with pytest.raises(StoreError, match="--seed"):  # which never is
        opened(tmp_path, {"seed": 2}, accept_changes=True)


@pytest.mark.parametrize(
    "change, round_", [({"data": {"bccd_train": "34cd"}}, SUPERSEDED), ({"stopping": "median"}, 0)]
)
def test_confirmations_before_a_change_of_config_or_data_decide_nothing(tmp_path, change, round_):
    opened(tmp_path, resume=False)
    with Store(tmp_path / "search.db") as store:
        for stage in (SEARCH, FINAL, CONFIRM):
            store.add(Evaluation(0, 0, [0.5], 0, "finished", 30.0, stage=stage))
    opened(tmp_path, change, accept_changes=True)
    with Store(tmp_path / "search.db") as store:
        assert [e.round for e in store.evaluations()] == [0, round_, round_]


def test_a_key_of_a_newer_version_is_no_change_at_its_default(tmp_path):
    opened(tmp_path, resume=False)
    newer = {"config": {**CONFIG, "MODEL.NEW": "off"}}
    opened(tmp_path, newer, defaults={"MODEL.NEW": "off"})
    with pytest.raises(StoreError, match="MODEL.NEW was not there and is off now"):
        opened(tmp_path, newer, defaults={"MODEL.NEW": "on"})


def test_an_old_store_goes_on_once_with_the_flag(tmp_path):
    opened(tmp_path, resume=False)
    with sqlite3.connect(tmp_path / "search.db") as db:
        db.execute("DELETE FROM settings WHERE key = 'data'")
    db.close()
    with pytest.raises(StoreError, match="an older version kept no data to compare; --accept-changes"):
        opened(tmp_path)
    opened(tmp_path, accept_changes=True)
    assert opened(tmp_path)["data"] == SETTINGS["data"]


def test_nothing_to_resume(tmp_path):
    with pytest.raises(StoreError, match="no search to resume"):
        opened(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_options_come_back_in_another_folder(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "data")
    monkeypatch.delenv("PARAMAP_DATASETS", raising=False)
    first = SearchOptions(
        "config.yaml",
        "out",
        generations=7,
        init=["linear"],
        final_iters=300,
        imports=["mine"],
        opts=["SOLVER.MAX_ITER", "5", "SEED", "3"],
    )
    opened(tmp_path / "out", resume=False, kept=first.to_store())
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    given = {"output_dir": "../out", "resume": True, "workers": 3, "opts": ["SOLVER.MAX_ITER", "9"]}
    resumed_options(given)
    assert "DETECTRON2_DATASETS" not in os.environ  # it is not there any more
    (tmp_path / "data").mkdir()
    again = resumed_options(given)
    assert os.environ["DETECTRON2_DATASETS"] == str(tmp_path / "data")
    assert again.config_file == str(tmp_path / "config.yaml") and again.resume and again.workers == 3
    assert (again.generations, again.init, again.final_iters, again.imports) == (7, ["linear"], 300, ["mine"])
    assert again.opts == ["SOLVER.MAX_ITER", "9", "SEED", "3"]


@pytest.mark.parametrize("option", ["found.json", "model.param_ap.loss=found.json"])
def test_the_configs_loss_and_detectron2s_default_folder_are_found_from_elsewhere(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    (tmp_path / "found.json").touch()
    kept = SearchOptions("config.yaml", "out", opts=["nowhere.json", 5, option]).to_store()
    assert kept["options"]["opts"] == ["nowhere.json", 5, option.replace("found", str(tmp_path / "found"))]
    assert kept["environment"]["DETECTRON2_DATASETS"] == str(tmp_path / "datasets")


def test_a_users_environment_goes_before_the_stored_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opened(tmp_path, resume=False, kept=SearchOptions("config.yaml", "out").to_store())
    monkeypatch.setenv("DETECTRON2_DATASETS", "/here")
    resumed_options({"output_dir": str(tmp_path), "resume": True})
    assert os.environ["DETECTRON2_DATASETS"] == "/here"


def test_options_of_an_old_store_as_far_as_it_kept_them(tmp_path):
    old = {"config_file": "c.yaml", "opts": ["A", "1"], "generations": 9, "final_iterations": 50, "repeats": 3}
    opened(tmp_path, resume=False, kept=old)
    again = resumed_options({"output_dir": str(tmp_path), "resume": True})
    assert (again.config_file, again.opts, again.generations) == ("c.yaml", ["A", "1"], 9)
    assert (again.final_iters, again.reevaluate, again.points, again.mode) == (50, 3, 1, "shared")


def test_options_of_a_newer_version_are_told(tmp_path):
    newer = SearchOptions("config.yaml", "out").to_store()
    newer["options"]["mood"] = "good"
    opened(tmp_path, resume=False, kept=newer)
    with pytest.raises(UserError, match="written by a newer version of paramap_d2: go on with that one .*options mood"):
        resumed_options({"output_dir": str(tmp_path), "resume": True})


def test_a_store_that_names_no_config(tmp_path):
    Store(tmp_path / "search.db").close()
    with pytest.raises(UserError, match="give it with --config-file"):
        resumed_options({"output_dir": str(tmp_path), "resume": True})


@pytest.mark.parametrize(
    "before, given, lazy, merged",
    [
        (["A", "1", "B", "2"], ["B", "3", "C", "4"], False, ["A", "1", "B", "3", "C", "4"]),
        (["a=1", "b=2"], ["b=3"], True, ["a=1", "b=3"]),
        (["A", "1"], [], False, ["A", "1"]),
        (["A", "1"], ["B"], False, ["A", "1", "B"]),
    ],
)
def test_config_options_given_anew(before, given, lazy, merged):
    assert merged_opts(before, given, lazy) == merged


def test_another_executor_is_told_nothing_of_the_one_before(tmp_path):
    on_ray = SearchOptions("c.yaml", "out", executor="ray", ray_address="auto", env=["A"], timeout=9.0, workers=4)
    opened(tmp_path, resume=False, kept=on_ray.to_store())
    given = {"output_dir": str(tmp_path), "resume": True}
    assert resumed_options(given).ray_address == "auto" and resumed_options({**given, "executor": "ray"}).env == ["A"]
    process = resumed_options({**given, "executor": "process"})
    assert (process.ray_address, list(process.env), process.timeout, process.workers) == (None, [], 9.0, 4)
    inline = resumed_options({**given, "executor": "inline"})
    assert (inline.ray_address, inline.timeout, inline.workers) == (None, None, 1)
    asked = resumed_options({**given, "executor": "process", "ray_address": "here"})
    assert asked.ray_address == "here"  # to be refused


@pytest.mark.parametrize(
    "budget, message",
    [
        ({"generations": 1}, "--generations 1: the search has 2 generations already; give 2 to end it there"),
        ({"generations": None, "evaluations": 4}, "--evaluations 4: the search has 5 evaluations already; give 5 to"),
    ],
)
def test_a_search_does_not_go_on_to_less_than_it_has(tmp_path, budget, message):
    opened(tmp_path, resume=False, kept={"generations": 3})
    with Store(tmp_path / "search.db") as store:
        for place in range(5):
            store.add(Evaluation(place // 2, place % 2, [0.1 * place], 0, "finished", 30.0))
        store.add(Evaluation(2, 0, [0.4], 0, "interrupted", 0.0))
        for generation in range(2):
            store.tell(generation, Told([30.0, 30.0], {}))
    with pytest.raises(StoreError, match=message):
        opened(tmp_path, kept=budget)
    assert opened(tmp_path)["generations"] == 3  # the next --resume goes on as before
    for enough in ({"generations": 2}, {"generations": None, "evaluations": 5}):
        assert opened(tmp_path, kept=enough)["generations"] == enough["generations"]
