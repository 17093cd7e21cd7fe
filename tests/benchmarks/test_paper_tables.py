"""The paper's tables: what is trained, that a training which was cut off ends the same, and what is told of it."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from paramap_d2.losses import load_loss

from .made_up import BENCHMARKS, result


def test_the_interval_over_images_knows_which_images_were_the_same(paper, training, tmp_path):
    def rows_of(aps, shifts):
        return [{"AP": ap, "resampled": [ap + shift for shift in shifts]} for ap in aps]

    images = [-3.0, 3.0, -3.0, 3.0]
    ours, baseline = rows_of((52.0, 53.0), images), rows_of((50.0, 51.0), images)
    over_seeds = paper.text.difference([52.0, 53.0], [50.0, 51.0])
    assert over_seeds == f"+2.0 ({paper.text.over_images(ours, baseline)})"  # hard images are hard for both
    others = rows_of((50.0, 51.0), [-shift for shift in images])
    low, high = map(float, paper.text.over_images(ours, others).split(" to "))
    assert high - low > 2 * 1.96 * 6 and low + high == pytest.approx(4.0, abs=0.11)
    assert paper.text.over_images(rows_of((52.0, 53.0), []), baseline) == ""


def test_every_table_names_its_trainings_and_the_first_seed_comes_first(paper):
    plan = paper.plans.Plan("bccd", ["retinanet", "faster_rcnn", "deformable_detr"], 1500, 3)
    counts = {"1": 3 * 2 * 3 - 2, "2": 2 * 4 * 3, "3": 8 * 3, "curves": 17 * 3, "recipes": 8 * 3, "final": 17 * 3}
    counts["ranks"] = 2 * 10 * 3
    for table, count in counts.items():
        wanted = paper.plans.missing(plan.parts(table, {}), {})
        assert len(wanted) == count, table
        assert [t.seed for t in wanted] == sorted(t.seed for t in wanted)
        for one in wanted:
            if one.loss_file is not None:
                search = paper.plans.search_of(one.loss_file.stem)
                assert (search.detector, search.name) == (one.detector, one.loss)
    blocked = [t.block_gradient for t in paper.plans.missing(plan.parts("1", {}), {})]
    assert blocked.count(True) == blocked.count(False)
    (functions,) = plan.parts("3", {})
    handcrafted = [cell.trainings[0].loss for cell in functions.cells[:4]]
    assert {cell.labels[1] for cell in functions.cells[:4]} == {"1"}
    assert all(head.grad_scale == 1 for loss in handcrafted for head in load_loss(loss).values())


def test_the_rates_that_are_tried_begin_with_the_configs_own(paper):
    assert set(paper.plans.RATES) == set(paper.rows.CONFIGS)
    for (dataset, detector), rates in paper.plans.RATES.items():
        config = paper.rows.read_config(paper.rows.get_config_file(paper.rows.CONFIGS[dataset, detector]))
        assert rates[0] == config.SOLVER.BASE_LR, (dataset, detector)


def test_searches_are_those_of_the_table(paper):
    from paramap_d2.cli.evolve import build_parser

    search = paper.plans.search_of("bccd_retinanet_100_shared_scale1")
    options = build_parser().parse_args(search.command("out", 3)[1:])
    assert options.workers == 3
    assert (options.mode, options.fix_grad_scale, options.evaluations, options.init) == ("shared", 1.0, 100, ["linear"])
    assert options.opts == ["DATASETS.TRAIN", "('bccd_train',)", "DATASETS.TEST", "('bccd_val',)"]
    assert paper.plans.search_of("bccd_retinanet").evaluations == 320
    with pytest.raises(LookupError):
        paper.plans.search_of("unheard")


def test_a_training_judged_on_test_tells_its_ap_on_val(paper, training, tmp_path):
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    same, other, lost = (replace(training, split="test", seed=seed) for seed in (0, 1, 2))
    rows.add("final", same, result(50.0, curve=[[750, 40.0], [1500, 51.0]]))
    rows.add("final", lost, result(0.0, status="diverged", figures={"AP": 0.0}, curve=[[750, 40.0]]))
    known = rows.all()
    on_val = [paper.plans.row_of(replace(t, split="val"), known) for t in (same, other, lost)]
    assert on_val[1] is None
    assert [(row["AP"], row["AP50"], row["split"]) for row in (on_val[0], on_val[2])] == [
        (51.0, None, "val"),
        (0.0, None, "val"),
    ]
    assert paper.plans.row_of(same, known)["AP"] == 50.0 and paper.plans.row_of(other, known) is None
    rows.add("curves", training, result(52.0))
    assert paper.plans.row_of(training, rows.all())["AP50"] == 82.0  # its own row tells more
    cell = paper.plans.Cell(("loss",), [training, replace(training, seed=2)])
    text = paper.text.table(paper.plans.Part("", ("loss",), [cell]), rows.all())
    assert "| loss | 26.0 ± 26.0 |  |  | 0, 2 | 1 |" in text  # no mean of the seeds that have a figure


def test_proxies_are_ranked_against_whole_trainings(paper, tmp_path):
    plan = paper.plans.Plan("bccd", ["retinanet"], 1500, 2)
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    proxies, whole = plan.parts("ranks", {})
    handcrafted = list(zip(proxies.cells, whole.cells, strict=True))[:4]
    assert [(s.trainings[0].iterations, w.trainings[0].iterations) for s, w in handcrafted] == [(150, 1500)] * 4
    assert paper.text.rank_correlation(proxies, whole, {}) == "0 losses have both; a rank correlation takes three."
    shorts, longs = ((10.0, 30.0), (20.0, 10.0), (30.0, 20.0), (40.0, 50.0)), (50.0, 51.0, 52.0, 53.0)
    for (short, long), proxy, ap in zip(handcrafted, shorts, longs, strict=True):
        for training, value in zip(short.trainings, proxy, strict=True):
            rows.add("ranks", training, result(value))
        rows.add("ranks", long.trainings[0], result(ap))
    text = paper.text.rank_correlation(proxies, whole, rows.all())
    # Means 20, 15, 25, 45; the second seed's ranks are 3, 1, 2, 4: 1 - 6 * 6 / 60.
    assert text == "Rank correlation (Spearman's) of 4 losses: 0.80 by the means, 1.00, 0.40 by single proxies."


def test_val_chooses_the_rate_and_other_seeds_are_judged(paper, training, tmp_path, monkeypatch):
    monkeypatch.setitem(paper.plans.RATES, ("bccd", "retinanet"), (0.001, 0.002, 0.0005))
    plan = paper.plans.Plan("bccd", ["retinanet"], 1500, 5)
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    for rate, ap in ((0.001, 50.0), (0.002, 51.2)):
        rows.add("final", replace(training, learning_rate=rate), result(ap))

    def rates_missing():
        by_val, on_test = plan.parts("final", rows.all())
        assert by_val.cells and (not on_test.cells or on_test.cells[0].labels[0] == training.loss)
        of_loss = [t for t in paper.plans.missing([by_val], rows.all()) if t.loss == training.loss]
        assert bool(of_loss) != bool(on_test.cells)
        return {t.learning_rate for t in of_loss}

    assert rates_missing() == {0.0005}
    rows.add("final", replace(training, learning_rate=0.0005), result(45.0))
    assert rates_missing() == {0.004}  # the best was the highest, and so may not be the best
    rows.add("final", replace(training, learning_rate=0.004), result(0.0, status="diverged", figures={"AP": 0.0}))
    by_val, on_test = plan.parts("final", rows.all())
    assert rates_missing() == set()
    baseline = replace(training, loss="focal-l1")
    close_by = replace(training, loss="focal-giou")
    for rate, clear, close in ((0.0005, 50.2, 50.0), (0.001, 49.0, 49.0), (0.002, 48.0, 48.0)):
        rows.add("final", replace(baseline, learning_rate=rate), result(clear))
        rows.add("final", replace(close_by, learning_rate=rate), result(close))
    wanted = paper.plans.missing(plan.parts("final", rows.all())[:1], rows.all())
    assert [t.learning_rate for t in wanted if t.loss == "focal-l1"] == [0.00025]
    assert not [t for t in wanted if t.loss == "focal-giou"]  # one seed does not tell them apart
    (cell,) = on_test.cells
    assert {(t.learning_rate, t.split) for t in cell.trainings} == {(0.002, "test")}
    assert [t.seed for t in cell.trainings] == [1, 2, 3, 4, 5] and {
        t.seed for c in by_val.cells for t in c.trainings
    } == {0}


def test_the_text_says_what_the_rows_say(paper, training, tmp_path):
    others = [replace(training, loss="focal-l1", seed=seed) for seed in range(3)]
    mine = [replace(training, seed=seed) for seed in range(3)]
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    for one, ap in zip([*mine, *others[:2]], (50.0, 52.0, 54.0, 49.0, 50.0), strict=True):
        rows.add("final", one, result(ap))
    cells = [paper.plans.Cell((name,), made) for name, made in (("mine", mine), ("focal-l1", others))]
    part = paper.plans.Part("made", ("loss",), cells, against=[cells[1]])
    text = paper.text.table(part, rows.all())
    assert "| mine | 52.0 ± 1.2 | 82.0 ± 1.2 | 42.0 ± 1.2 | 0, 1, 2 |  | +2.5 (" in text
    assert "| focal-l1 | 49.5 ± 0.5 | 79.5 ± 0.5 | 39.5 ± 0.5 | 0, 1 of 3 |  |  |" in text
    assert "5 of 6 trainings; data bccd, AP on val; 1500 iterations" in paper.text.budget(part, rows.all())
    paper.text.draw_part(part, rows.all(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
    assert paper.text.curves(part, rows.all()) == {
        "mine (3 seeds)": [[[10, ap]] for ap in (50.0, 52.0, 54.0)],
        "focal-l1 (2 seeds)": [[[10, 49.0]], [[10, 50.0]]],
    }
    way = {
        "mine (2 seeds)": [[[10, 40.0], [20, 50.0]], [[10, 42.0], [20, 51.0]]],
        "other (1 seed)": [[[10, 9.0], [20, 9.5]]],
    }
    assert paper.text.curve_table(way).splitlines() == [
        "| iterations | 10 | 20 |",
        "| --- | ---: | ---: |",
        "| mine (2 seeds) | 41.0 | 50.5 |",
        "| other (1 seed) | 9.0 | 9.5 |",
    ]
    assert paper.text.mean_error([]) == "" and paper.text.mean_error([50.0]) == "50.0"


def test_how_early_curves_of_five_losses_tell_the_end(paper):
    way = {f"loss {n}": [[[10, 5.0 - n], [20, n + (n == 4) * -1.5], [30, 1.0 * n]]] for n in range(5)}
    *_, last = paper.text.curve_table(way).splitlines()
    assert last == "| rank correlation with the end | -1.00 | 0.90 | |"  # 0, 1, 2, 3 and 2.5: two places swapped


@pytest.mark.parametrize(("dataset", "stem"), [("bccd", "final"), ("own", "final_own")])
def test_tables_of_other_data_do_not_overwrite_bccds(paper, training, tmp_path, dataset, stem):
    plan = paper.plans.Plan(dataset, ["retinanet"], 1500, 5)
    rate = paper.plans.RATES[dataset, "retinanet"][0]
    rows = paper.rows.Rows(tmp_path / "rows" / "trainings.db")
    rows.add("final", replace(training, dataset=dataset, learning_rate=rate), result(50.0))
    text = paper.text.report("final", plan, rows.all(), tmp_path)
    assert f"({stem}.png)" in text and (tmp_path / f"{stem}.md").read_text() == text
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {f"{stem}.md", f"{stem}.png"}


@pytest.mark.parametrize("loss", ["retinanet-coco", "retinanet-coco-linear"])
def test_a_training_that_was_cut_off_ends_the_same(paper, tiny, tmp_path, monkeypatch, loss):
    monkeypatch.setitem(paper.rows.CONFIGS, ("tiny", "retinanet"), "shapes_retinanet_R_18_FPN.yaml")
    monkeypatch.setattr(paper.rows, "of_data", {"tiny": tiny}.get)
    monkeypatch.setattr(paper.training, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(paper.training, "POINTS", 2)
    monkeypatch.setattr(paper.training, "APART", 1)
    one = paper.rows.Training("tiny", "retinanet", loss, 0.001, 3, 4)
    (whole := tmp_path / "whole").mkdir()
    (cut := tmp_path / "cut").mkdir()
    expected = paper.training.train(one, whole)
    assert [point for point, _ in expected["curve"]] == [2, 4] and expected["figures"]["AP"] > 0
    assert expected["figures"]["AP"] == expected["curve"][-1][1] and expected["status"] == "finished"
    for _ in range(3):
        with pytest.raises(paper.training.TimeIsOver):
            paper.training.train(one, cut, until=0)
    ended = paper.training.train(one, cut, until=0)  # nothing is left but the last iteration
    assert {**ended, "seconds": 0, "cpu_seconds": 0} == {**expected, "seconds": 0, "cpu_seconds": 0}


SCRIPT = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
training = json.loads((folder / "training.json").read_text())
if training["seed"] == 1: sys.exit(3)
if training["seed"] == 2: sys.exit(76)
(folder / "result.json").write_text(json.dumps({RESULT}))
"""


def test_what_ends_is_kept_and_what_fails_is_told(paper, training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper.tables, "HERE", tmp_path)
    (tmp_path / "paper_training.py").write_text(SCRIPT.replace("{RESULT}", repr(result(50.0))))
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    calls = itertools.count()
    runner = paper.tables.Runner(rows, tmp_path / "work", 2, float("inf"), lambda: next(calls))
    wanted = [replace(training, seed=seed) for seed in range(4)]
    problems = runner.run("final", lambda known: [t for t in wanted if t.key() not in known])
    assert sorted(row["seed"] for row in rows.all().values()) == [0, 3] and next(calls) == 2
    assert sorted(p.split(":")[0].split(",")[0] for p in problems) == ["failed", "goes on another time"]
    assert {path.name for path in (tmp_path / "work" / "trainings").iterdir()} == {t.key() for t in wanted[1:3]}


def test_a_field_that_trainings_lack_is_one_line():
    command = [sys.executable, str(BENCHMARKS / "paper_tables.py"), "--plan", "--only", "colour=red"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --only colour=red: must be FIELD=VALUE")
    assert len(done.stderr.splitlines()) == 1


def test_only_takes_numbers_however_they_are_written(paper, training):
    assert training.learning_rate == 0.001 and training.seed == 0
    for given, wanted in (("learning_rate=.001", True), ("learning_rate=1e-3,.1", True), ("learning_rate=.01", False)):
        only = paper.tables.filters([given, "seed=0"], ["learning_rate", "seed"])
        assert paper.tables.is_wanted(training, only) is wanted
    assert not paper.tables.is_wanted(training, {"loss": {"0"}})


def test_only_says_what_no_training_has(paper, training):
    trainings = [training, replace(training, seed=1)]
    for given, told in (
        ("seed=0,1", ""),
        ("seed=0,loss=square", "no training has seed=loss=square (yet); there are 0, 1"),
    ):
        only = paper.tables.filters([given], ["seed"])
        assert paper.tables.unknown_values(trainings, only) == told


def test_data_that_are_not_there_are_one_line(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "paper_tables.py"), "--table", "final", "--db", str(tmp_path / "x.db")]
    command += ["--report", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "loss=squre"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "table final: no training has loss=squre (yet); there are retinanet-coco, " in done.stderr
    assert done.returncode == 0  # nothing was to be trained
    done = subprocess.run([*command[:-1], "loss=focal-l1"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: data set 'bccd_train' needs ")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "work").exists()


@pytest.mark.parametrize("status, state, whole", [(0, "done", True), (0, "interrupted", False), (1, "done", False)])
def test_a_loss_that_is_not_there_is_searched_first(paper, training, tmp_path, monkeypatch, status, state, whole):
    from paramap_d2.cli.evolve import build_parser
    from paramap_d2.search.store import Store

    monkeypatch.setattr(paper.tables, "HERE", tmp_path)
    monkeypatch.setattr(paper.rows, "RESULTS", tmp_path)
    (tmp_path / "paper_training.py").write_text(SCRIPT.replace("{RESULT}", repr(result(50.0))))
    asked = []

    def search(command, **options):
        asked.append(command)
        folder = tmp_path / "work" / "searches" / "bccd_retinanet_100_shared"
        folder.mkdir(parents=True)
        presets = BENCHMARKS.parent / "paramap_d2" / "losses" / "presets"
        shutil.copyfile(presets / "retinanet-coco.json", folder / "best.json")
        Store(folder / "search.db").close()
        (folder / "status.json").write_text(json.dumps({"state": state}))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(paper.tables.subprocess, "run", search)
    rows = paper.rows.Rows(tmp_path / "trainings.db")
    runner = paper.tables.Runner(rows, tmp_path / "work", 1, float("inf"), lambda: None)
    wanted = [replace(training, loss="bccd_retinanet_100_shared")]
    problems = runner.run("3", lambda known: [t for t in wanted if paper.plans.row_of(t, known) is None])
    (command,) = asked
    assert command[2:4] == ["paramap_d2", "evolve"]
    options = build_parser().parse_args(command[4:])
    assert (options.mode, options.workers) == ("shared", 1)
    assert [row["loss"] for row in rows.all().values()] == ["bccd_retinanet_100_shared"] * whole
    assert [problem.split(" (")[0] for problem in problems] == ["its search has not ended"] * (not whole)
