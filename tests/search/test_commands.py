"""What a search hands over can be typed where it is read."""

import shlex
from pathlib import Path

import pytest

from paramap_d2.search.commands import training_command
from paramap_d2.search.options import SearchOptions

HERE, LOSS = Path("out/retrained"), Path("out/best.json")


def words(**settings):
    return shlex.split(training_command({"loss_keys": ["model.param_ap.loss"], **settings}, LOSS, HERE))


def test_the_config_is_found_from_whatever_folder(tmp_path, monkeypatch):
    (tmp_path / "my config.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    options = SearchOptions("my config.yaml", "out", opts=["SEED", "3"]).to_store()
    settings = {**options, "config_file": "my config.yaml", "opts": ["SEED", "3"], "imports": []}
    mine = ["SEED", "3", "MODEL.PARAM_AP.LOSS", "out/best.json", "OUTPUT_DIR", "out/retrained"]
    assert words(**settings) == ["paramap", "train", "--config-file", "my config.yaml", *mine]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert words(**settings) == ["paramap", "train", "--config-file", str(tmp_path / "my config.yaml"), *mine]


@pytest.mark.parametrize(
    "config, opts, kept",
    [
        ("c.yaml", ["SOLVER.MAX_ITER", "9", "PROXY.OPTS", "[]", "SOLVER.BASE_LR", "0.1"], ["SOLVER.BASE_LR", "0.1"]),
        ("c.yaml", ["SOLVER.STEPS", "(5,)", "SOLVER.WARMUP_ITERS", "1"], []),
        ("c.py", ["train.max_iter=9", "+proxy.opts=[]", "optimizer.lr=0.1"], ["optimizer.lr=0.1"]),
        ("c.py", ["lr_multiplier.warmup_iters=0"], []),
    ],
)
def test_the_length_of_proxies_is_not_that_of_a_training(config, opts, kept):
    loss = ["MODEL.PARAM_AP.LOSS", "out/best.json", "OUTPUT_DIR", "out/retrained"]
    if config.endswith(".py"):
        loss = ["model.param_ap.loss=out/best.json", "train.output_dir=out/retrained"]
    assert words(config_file=config, opts=opts)[2:] == ["--config-file", config, *kept, *loss]


@pytest.mark.parametrize("own", [{"imports": ["mine"]}, {"config": {"PROXY.TRAINER": "mine:Trainer"}}])
def test_what_is_ones_own_is_trained_by_a_script_of_ones_own(own):
    assert words(config_file="c.yaml", **own)[:4] == ["python", "YOUR_TRAINING_SCRIPT.py", "--config-file", "c.yaml"]
    assert words(config_file="c.yaml", imports=[], config={"PROXY.TRAINER": ""})[0] == "paramap"
