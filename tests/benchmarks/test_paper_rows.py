"""What one training of the paper's tables is, and the file of rows."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from paramap_d2.errors import UserError

from .made_up import BENCHMARKS, result


def test_trainings_that_differ_have_keys_that_differ(paper, training, tmp_path, monkeypatch):
    changes = {
        "dataset": "shapes",
        "detector": "faster_rcnn",
        "loss": "square",
        "learning_rate": 0.002,
        "seed": 1,
        "iterations": 150,
        "split": "test",
        "block_gradient": False,
    }
    assert set(changes) == set(asdict(training))
    keys = [training.key()]
    for name, value in changes.items():
        other = replace(training, **{name: value, **({"loss": "square"} if name == "detector" else {})})
        keys.append(other.key())
    assert len(set(keys)) == len(keys)

    monkeypatch.setattr(paper.rows, "RESULTS", tmp_path)
    (tmp_path / "losses").mkdir()
    presets = BENCHMARKS.parent / "paramap_d2" / "losses" / "presets"
    found = replace(training, loss="found")
    shutil.copyfile(presets / "retinanet-coco.json", found.loss_file)
    assert found.key() == training.key()  # the same functions under another name
    content = json.loads(found.loss_file.read_text())
    content["heads"]["dense"]["grad_scale"] = 4.0
    found.loss_file.write_text(json.dumps(content))
    assert found.key() != training.key()


def test_what_a_variant_changes_is_part_of_it(paper, training, monkeypatch):
    ended = replace(training, loss="retinanet-coco-linear")
    before = ended.key()
    for changed in ({"END_LOSS_FROM": 0.6}, {"END_LOSS": "square"}, {"LOSS": "linear"}):
        monkeypatch.setitem(paper.rows.VARIANTS, ended.loss, paper.rows.VARIANTS[ended.loss] | changed)
        assert ended.key() != before
        before = ended.key()


def test_a_training_as_long_as_a_proxy_is_what_a_search_trains(paper, training, monkeypatch):
    proxy = replace(training, iterations=paper.plans.PROXY_ITERATIONS)
    assert [one.config().SOLVER.WARMUP_ITERS for one in (training, proxy)] == [100, 20]
    before, whole = proxy.key(), training.key()
    monkeypatch.setattr(paper.rows, "_proxy_options", lambda file: [("SOLVER.MAX_ITER", 150), ("TEST.EVAL_PERIOD", 9)])
    assert (proxy.config().SOLVER.WARMUP_ITERS, proxy.config().TEST.EVAL_PERIOD) == (100, 9)
    assert proxy.key() != before and training.key() == whole
    for detector in ("retinanet", "faster_rcnn", "deformable_detr"):
        one = replace(proxy, detector=detector)
        searched = paper.rows.read_config(one.config_file).PROXY.OPTS
        assert searched[searched.index("SOLVER.MAX_ITER") + 1] == one.iterations


def test_what_every_training_says_itself_is_not_of_the_recipe(paper, training, tmp_path, monkeypatch):
    def recipe(text):
        (tmp_path / f"{len(os.listdir(tmp_path))}.yaml").write_text(text)
        return paper.rows._recipe(str(tmp_path / f"{len(os.listdir(tmp_path)) - 1}.yaml"))

    whole = "SOLVER: {BASE_LR: 0.1, MAX_ITER: 9, WEIGHT_DECAY: 0.2}\nSEED: 1\nDATASETS: {TRAIN: [a]}\n"
    assert recipe(whole) == recipe("SOLVER: {WEIGHT_DECAY: 0.2}\n")
    assert recipe(whole) != recipe("SOLVER: {WEIGHT_DECAY: 0.3}\n")


def test_options_make_the_detector_that_is_named(paper, training):
    kept = {
        "focal-l1": ("ParamAPBaselineRetinaNet", 1.0, "smooth_l1"),
        "focal-giou": ("ParamAPBaselineRetinaNet", 2.0, "giou"),
        "square": ("ParamAPRetinaNet", 1.0, "smooth_l1"),
    }
    for loss, (architecture, weight, box_loss) in kept.items():
        cfg = replace(training, loss=loss).config()
        of_boxes = cfg.MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT, cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE
        assert (cfg.MODEL.META_ARCHITECTURE, *of_boxes) == (architecture, weight, box_loss)
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST) == (0.001, 1500, ("bccd_val",))
    assert not replace(training, block_gradient=False).config().MODEL.PARAM_AP.BLOCK_GRADIENT
    l1 = replace(training, loss="retinanet-coco-l1").config().MODEL.PARAM_AP
    assert (l1.LOSS, l1.QUALITY, training.config().MODEL.PARAM_AP.QUALITY) == ("retinanet-coco", "l1", "giou")
    ended = replace(training, loss="retinanet-coco-linear").config().MODEL.PARAM_AP
    assert (ended.LOSS, ended.END_LOSS, ended.END_LOSS_FROM) == ("retinanet-coco", "linear", 0.5)
    assert l1.END_LOSS == ""
    stock = replace(training, detector="faster_rcnn", loss="ce-l1").config()
    assert (stock.MODEL.PROPOSAL_GENERATOR.NAME, stock.MODEL.ROI_HEADS.NAME) == ("RPN", "StandardROIHeads")
    with pytest.raises(UserError, match="no config of own faster_rcnn; there are bccd retinanet"):
        replace(training, dataset="own", detector="faster_rcnn").config()


def test_ones_own_data_says_how_many_classes_it_has(paper, training, monkeypatch):
    from paramap_d2.data import DatasetError, evaluation

    own = replace(training, dataset="own")
    assert own.key()  # known without the data
    with pytest.raises(DatasetError, match="own_train"):
        own.options()
    before = own.key()
    monkeypatch.setattr(paper.rows, "_own_data", lambda: {"own_train": "digest"})
    assert before != own.key()
    monkeypatch.setattr("paramap_d2.data.check_datasets", lambda name: None)
    monkeypatch.setattr(evaluation, "read_truth", lambda name: SimpleNamespace(class_names=["a", "b", "c", "d"]))
    assert own.options()[:2] == ["MODEL.RETINANET.NUM_CLASSES", 4]
    assert paper.plans.search_of("own_retinanet").command("out", 1)[-6:-4] == ["MODEL.RETINANET.NUM_CLASSES", "4"]


def test_rows_come_back_and_the_first_of_a_training_stays(paper, training, tmp_path):
    rows = paper.rows.Rows(tmp_path / "made" / "trainings.db")
    rows.add("final", training, result(50.0))
    rows.add("curves", training, result(40.0))
    rows.add("final", replace(training, seed=1), result(0.0, status="diverged", figures={"AP": 0.0}))
    first, second = paper.rows.Rows(rows.path).all().values()
    told = {"key": training.key(), "AP": 50.0, "AP50": 80.0, "curve": [[10, 50.0]], "seed": 0, "table_name": "final"}
    assert {name: first[name] for name in told} == told
    assert second["status"] == "diverged" and second["AP50"] is None


def test_rows_of_another_machine_are_taken_over_once(paper, training, tmp_path):
    mine, other = (paper.rows.Rows(tmp_path / name / "trainings.db") for name in ("mine", "other"))
    mine.add("final", training, result(50.0))
    other.add("final", training, result(40.0))
    other.add("final", replace(training, seed=1), result(41.0))
    assert [mine.merge(other.path), mine.merge(other.path)] == [1, 0]
    assert [row["AP"] for row in mine.all().values()] == [50.0, 41.0]
    with pytest.raises(UserError, match="there is no such file"):
        mine.merge(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no rows here")
    with pytest.raises(UserError, match="not a file of this benchmark's rows"):
        mine.merge(tmp_path / "text.db")


def test_rows_from_before_images_were_drawn_are_read_and_taken_over(paper, training, tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "older.db") as db:
        db.execute(paper.rows.SCHEMA)
        db.execute("INSERT INTO trainings (key, AP, curve) VALUES ('k', 50.0, '[]')")
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    assert rows.merge(tmp_path / "older.db") == 1
    rows.add("final", training, result(51.0, resampled=[50.0, 52.0]))
    assert {key: row["resampled"] for key, row in rows.all().items()} == {"k": [], training.key(): [50.0, 52.0]}
    with ThreadPoolExecutor(8) as several:
        opened = list(several.map(paper.rows.Rows, [tmp_path / "older.db"] * 8))
    (row,) = opened[0].all().values()
    assert (row["AP"], row["resampled"]) == (50.0, [])
