"""What the demo shows of its trainings."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from paramap_d2.cli import demo
from paramap_d2.cli.demo import CONFIG, draw_detections
from paramap_d2.config import read_config
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file


def test_the_picture_is_of_the_calibrated_detector(tmp_path):
    config = Path(get_config_file(CONFIG))
    with pytest.raises(UserError, match="no calibrated detector; see .*output.txt"):
        draw_detections(config, tmp_path, tmp_path / "detections.png")
    model = build_model(read_config(config))
    torch.save({"model": model.state_dict()}, tmp_path / "model_calibrated.pth")
    draw_detections(config, tmp_path, tmp_path / "detections.png")
    assert (tmp_path / "detections.png").stat().st_size > 10_000


def test_the_config_calibrates_on_images_that_it_is_not_judged_by():
    cfg = read_config(get_config_file(CONFIG))
    assert cfg.MODEL.PARAM_AP.CALIBRATE_ON == "shapes_val"


def lines(aps):
    """A metrics.json as Detectron2 writes it: losses every 20 iterations, evaluations between; the last counts
    otherwise than those before it."""
    found = [{"iteration": 19, "total_loss": 0.5}]
    for at, ap in aps.items():
        found.append({"iteration": at - (at < demo.ITERATIONS), "bbox/AP": ap, "bbox/AP50": ap + 20})
    return found


def test_evaluations_are_read_by_the_iterations_until_then(tmp_path):
    assert demo.figures(tmp_path) == {}
    evaluated = [*lines({75: 10.0, 150: 20.0}), *lines({75: 11.0})]  # interrupted, and gone on from before
    text = "\n".join(map(json.dumps, evaluated))
    (tmp_path / "metrics.json").write_text(text + '\n{"iteration": 22')  # a line half written
    assert {at: line["bbox/AP"] for at, line in demo.figures(tmp_path).items()} == {75: 11.0, 150: 20.0}


def test_a_training_is_shown_from_its_beginning_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.console, "width", 120)
    found = {}
    for name, slope in (("searched", 0.1), ("focal + L1", 0.05)):
        aps = {at: slope * at for at in range(demo.EVERY, demo.ITERATIONS + 1, demo.EVERY)}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines(aps))))
        found[name] = demo.figures(folder)
    with demo.console.capture() as shown:
        demo.show_trainings(found, tmp_path / "curves.png")
    text = shown.get()
    assert all(f"{figure:.1f}" in text for figure in (8.0, 40.0, 60.0, 4.0, 20.0)), text
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_the_trainings_end_where_they_are_looked_at():
    assert demo.ITERATIONS % demo.EVERY == 0


@pytest.fixture
def ran(monkeypatch):
    """The options of every command that the demo would run. Its trainings end at once, at their last look."""
    recorded = []

    def record(command, **_):
        assert command[:3] == [sys.executable, "-m", "paramap_d2"]
        name, *words = command[3:]
        recorded.append((name, importlib.import_module(f"paramap_d2.cli.{name}").build_parser().parse_args(words)))
        return subprocess.CompletedProcess(command, 0)

    def train(trainings):
        for folder, command in trainings.items():
            record(command)
            folder.mkdir(parents=True)
            looks = range(demo.EVERY, demo.ITERATIONS + 1, demo.EVERY)
            (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines(dict.fromkeys(looks, 30.0)))))

    monkeypatch.setattr(demo.subprocess, "run", record)
    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(demo, "draw_detections", lambda *_: None)
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    return recorded


def test_what_it_runs_are_commands_as_they_are(ran, tmp_path):
    assert demo.main(["--output-dir", str(tmp_path)]) == 0
    (first, search), *trainings = ran
    assert first == "evolve" and search.output_dir == str(tmp_path) and not search.resume
    assert search.init == ["linear"] and Path(search.config_file).name == CONFIG
    read_config(search.config_file, search.opts)
    found = []
    for name, options in trainings:
        assert name == "train" and options.resume
        cfg = read_config(options.config_file, options.opts)
        assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) == (demo.ITERATIONS, demo.EVERY)
        assert cfg.DATASETS.TEST == ("shapes_test",)
        found.append((cfg.OUTPUT_DIR, cfg.MODEL.META_ARCHITECTURE))
        assert cfg.MODEL.PARAM_AP.LOSS == str(tmp_path / "best.json") or cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    assert found == [(str(tmp_path / "searched"), "ParamAPRetinaNet"), (str(tmp_path / "focal_L1"), "RetinaNet")]


def test_a_second_call_resumes_the_search_and_trains_no_more(ran, tmp_path):
    demo.main(["--output-dir", str(tmp_path)])
    (tmp_path / "search.db").touch()
    ran.clear()
    assert demo.main(["--output-dir", str(tmp_path)]) == 0
    ((name, options),) = ran
    assert name == "evolve" and options.resume


def test_a_search_that_ends_otherwise_ends_the_demo(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 130))
    assert demo.main(["--output-dir", str(tmp_path)]) == 130 and not ran
