import csv
import json
import math

import pytest

from paramap_d2.cli import run
from paramap_d2.errors import UserError
from paramap_d2.losses import load_loss
from paramap_d2.search import load
from paramap_d2.search.export import export
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation, Store

SPACE = SearchSpace(("roi",), fixed={"rpn": load_loss("fasterrcnn-coco")["rpn"]})
HALF = [0.5] * SPACE.genes


def evaluation(position, status="finished", fitness=10.0, **more):
    genome = [position / 10, *HALF[1:]]
    metrics = {"bbox/AP": fitness, "bbox/AP50": 2 * fitness} if status == "finished" else {}
    return Evaluation(0, position, genome, 7, status, fitness, metrics, 60.0, 100, started=1.7e9 + position, **more)


EVALUATIONS = [
    evaluation(0, fitness=12.5),
    evaluation(0, fitness=13.5, stage="repeat", planned=100, curve=[[50, 6.0]]),
    evaluation(1, "stopped", 3.0, planned=200, curve=[[50, 2.0], [100, 3.0]]),
    evaluation(2, "diverged", 0.0, error="FloatingPointError: NaN"),
    evaluation(3, "interrupted", 0.0),
    evaluation(0, fitness=30.0, stage="final", planned=400),
]


@pytest.fixture
def search(tmp_path):
    folder = tmp_path / "my search"
    folder.mkdir()
    with Store(folder / "search.db") as store:
        initial = [evaluation(0).genome]
        options = {"init": ["square"]}
        store.write_settings({"space": SPACE.describe(), "metric": "AP", "initial": initial, "options": options})
        for each in EVALUATIONS:
            store.add(each)
    return folder


def test_a_space_is_told_and_read_again():
    again = SearchSpace.described(json.loads(json.dumps(SPACE.describe())))
    assert again == SPACE and again.decode(HALF) == SPACE.decode(HALF)


def test_the_table_holds_every_evaluation_and_gene(search):
    table = load(search)
    assert list(table["id"]) == [1, 2, 3, 4, 5, 6] and list(table.columns[-SPACE.genes :]) == SPACE.gene_names
    assert list(table["stage"]) == ["search", "repeat", "search", "search", "search", "final"]
    assert list(table["name"]) == ["square", "square", "#3", "#4", "#5", "square"]
    assert list(table[SPACE.gene_names[0]]) == [0.0, 0.0, 0.1, 0.2, 0.3, 0.0]
    assert [None if math.isnan(x) else x for x in table["fitness"]] == [12.5, 13.5, 3.0, None, None, 30.0]
    assert table["bbox/AP50"][0] == 25.0 and math.isnan(table["bbox/AP50"][3])
    assert table["started"][0].isoformat() == "2023-11-14T22:13:20+00:00"


def test_csv_and_json_hold_the_table(search, tmp_path):
    export(search, "csv", tmp_path / "t.csv")
    export(search, "json", tmp_path / "t.json")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    objects = json.loads((tmp_path / "t.json").read_text())
    assert [row["status"] for row in rows] == [o["status"] for o in objects] == [e.status for e in EVALUATIONS]
    assert [float(row["fitness"] or "nan") for row in rows][:3] == [12.5, 13.5, 3.0]
    assert objects[3]["fitness"] is None and objects[2]["curve"] == [[50, 2.0], [100, 3.0]]


def test_optuna_reads_the_study_that_was_exported(search, tmp_path):
    optuna = pytest.importorskip("optuna")
    path = tmp_path / "study.db"
    export(search, "optuna", path)
    storage = f"sqlite:///{path}"
    assert set(optuna.get_all_study_names(storage)) == {"my search", "my search (longer)"}
    study = optuna.load_study(study_name="my search", storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert study.best_value == 13.5 and study.user_attrs == {"metric": "AP"}
    first, repeat, stopped, diverged, _ = study.trials
    assert list(first.params.values()) == EVALUATIONS[0].genome and list(first.params) == SPACE.gene_names
    assert (first.user_attrs["seed"], first.user_attrs["bbox/AP50"], repeat.user_attrs["stage"]) == (7, 25.0, "repeat")
    assert stopped.intermediate_values == {50: 2.0, 100: 3.0} and first.intermediate_values == {}
    assert repeat.intermediate_values == {50: 6.0, 100: 13.5}  # to its end
    assert study.metric_names == ["AP"] and first.user_attrs["name"] == "square"
    assert diverged.user_attrs["error"] == "FloatingPointError: NaN"
    assert (first.datetime_complete - first.datetime_start).total_seconds() == 60
    assert optuna.load_study(study_name="my search (longer)", storage=storage).best_value == 30.0


def test_nothing_is_written_over_and_nothing_half_written_stays(search, tmp_path, monkeypatch):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(UserError, match="there.csv is there already"):
        export(search, "csv", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(UserError, match="cannot write .*nowhere"):
        export(search, "csv", tmp_path / "nowhere" / "t.csv")
    with pytest.raises(UserError, match="no search there"):
        export(tmp_path, "csv", tmp_path / "t.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my search", "there.csv"]


@pytest.mark.parametrize("kind, name", [("csv", "my search.csv"), ("optuna", "my search_optuna.db")])
def test_the_command(kind, name, search, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("export", [str(search), "--format", kind]) == 0
    assert capsys.readouterr().out == f"{name}\n" and (tmp_path / name).stat().st_size
    assert run("export", [str(search), "--format", kind]) == 2
