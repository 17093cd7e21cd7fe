"""Whole searches: real Detectron2 proxies, very short ones."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import portalocker
import pytest

from paramap_d2.errors import NoResultError, UserError
from paramap_d2.losses import load_loss
from paramap_d2.search.deadline import Deadline
from paramap_d2.search.life import overview
from paramap_d2.search.proxies.versions import machine
from paramap_d2.search.session import SearchOptions, _first_individuals, run_search
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import FINISHED, Store, StoreError

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"
RETINANET = str(CONFIGS / "shapes_retinanet_R_18_FPN.yaml")


def options(folder, opts, **more):
    defaults = {
        "config_file": RETINANET,
        "population": 2,
        "generations": 2,
        "executor": "inline",
        "seed": 3,
        "confirm": 0,
    }
    return SearchOptions(output_dir=str(folder), opts=opts, **{**defaults, **more})


def rows(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return store.evaluations()


def story(folder):
    return sorted((e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in rows(folder))


@pytest.mark.slow
def test_a_search_leaves_what_it_promises_and_resumes_to_the_same(tmp_path, tiny):
    best = run_search(options(tmp_path / "whole", tiny))
    folder = tmp_path / "whole"
    found = rows(folder)
    assert [e.status for e in found] == [FINISHED] * 3
    assert all(e.seconds > 0 and e.iterations == 2 and e.seed == 3 and "bbox/AP50" in e.metrics for e in found)
    assert best.mean == max(e.fitness for e in found)
    assert list(load_loss(folder / "best.json")) == ["dense"]
    assert json.loads((folder / "best.json").read_text())["meta"]["fitness"] == best.mean
    for name in ("functions.png", "history.png", "report.html", "log.txt"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").glob("events.*"))
    assert not list(folder.rglob("*.pth")) and not list(folder.rglob("metrics.json"))

    # The same in worker processes, cut off after the first generation.
    run_search(options(tmp_path / "cut", tiny, executor="process", workers=2, generations=1))
    run_search(options(tmp_path / "cut", tiny, executor="process", workers=2, resume=True))
    first, again = story(folder), story(tmp_path / "cut")
    assert [row[:5] for row in again] == [row[:5] for row in first]
    # AP of a hardly trained detector: the last bit of a score can swap two detections.
    assert [row[5] for row in again] == pytest.approx([row[5] for row in first], abs=0.01)


def test_a_search_that_has_no_time_for_another_generation_says_how_to_go_on(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(Deadline, "raised", lambda self: nullcontext())
    run_search(options(tmp_path / "out", tiny, hours=1e-9))
    assert len(rows(tmp_path / "out")) == 2  # the first generation
    life, text = overview(tmp_path / "out")
    assert life.state == "interrupted" and "no time was left for another generation" in text
    assert f"next         paramap evolve --resume --output-dir {tmp_path / 'out'}" in text
    assert "no time was left" in (tmp_path / "out" / "log.txt").read_text()
    run_search(options(tmp_path / "out", tiny, resume=True))
    assert len(rows(tmp_path / "out")) == 3 and overview(tmp_path / "out")[0].state == "done"


@pytest.mark.slow
def test_real_proxies_repeated_stopped_and_trained_longer(tmp_path, tiny):
    opts = [*tiny, "SOLVER.MAX_ITER", "4"]
    run_search(options(tmp_path / "plain", opts, population=5, generations=1))
    # The identity alone would be too little: four curves are needed before one is ended.
    more = {"stop": "halving", "reevaluate": 2, "final_iters": 6, "finalists": 1}
    more |= {"keep_finalists": True, "checkpoint_proxies": 2}
    best = run_search(options(tmp_path / "out", opts, population=5, generations=2, elite=2, **more))
    found = rows(tmp_path / "out")
    first = [e for e in found if e.generation == 0 and e.stage == "search"]
    assert [[i for i, _ in e.curve] for e in first] == [[1, 2]] * 5  # a quarter and a half of 4 iterations
    # Looking on the way changes nothing of the training.
    plain = {tuple(e.genome): e.fitness for e in rows(tmp_path / "plain")}
    assert {tuple(e.genome): e.fitness for e in first} == plain
    second = [e for e in found if e.generation == 1 and e.stage == "search"]
    for e in second:
        ended = e.status == "stopped"
        assert ended == (e.iterations < 4) == ("is needed to go on" in e.error)
        assert not ended or e.fitness == e.curve[-1][1]
    repeats = [e for e in found if e.stage == "repeat"]
    assert repeats and all(e.seed == 4 for e in repeats)
    finals = [e for e in found if e.stage == "final"]
    assert [(e.iterations, e.planned) for e in finals] == [(6, 6)] * len(finals)
    assert {tuple(e.genome) for e in finals} == {tuple(best.genome)} and {e.seed for e in finals} == {3, 4}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "in 6 iterations" in page
    assert len(list((tmp_path / "out" / "finalists").glob("final_*.pth"))) == len(finals)
    assert not list((tmp_path / "out").rglob("checkpoint.pth"))  # of trainings that have ended


@pytest.mark.parametrize(
    "opts, status, cause, error",
    [
        (
            ["SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "6"],
            "diverged",
            "",
            "FloatingPointError: Loss became infinite",
        ),
        (["MODEL.RETINANET.SCORE_THRESH_TEST", "1.5"], "no detections", "", "finds nothing"),
        (["MODEL.FPN.NORM", "nothing"], "failed", "exception", "KeyError: .*nothing"),
    ],
)
def test_failures_are_told_apart(tmp_path, tiny, opts, status, cause, error):
    with pytest.raises(NoResultError, match=f"all 2 proxies of generation 0 failed.*{error}.*report.html"):
        run_search(options(tmp_path / "out", [*tiny, *opts], generations=1, retries=1))
    assert len(rows(tmp_path / "out")) == (4 if status == "failed" else 2)
    for evaluation in rows(tmp_path / "out"):
        assert evaluation.status == status and evaluation.fitness == 0.0 and evaluation.cause == cause
        assert list(evaluation.versions) == ["torch", "detectron2", "paramap_d2", "machine"]
        assert evaluation.versions["machine"] == machine()
        assert re.search(error, evaluation.error) and "\n" not in evaluation.error
        assert evaluation.log
    assert not (tmp_path / "out" / "best.json").exists()
    assert status in (tmp_path / "out" / "report.html").read_text()


def test_a_loss_that_stays_at_one_is_stopped(tmp_path, tiny, monkeypatch):
    from paramap_d2.losses import ParameterizedAPLoss
    from paramap_d2.losses.parameterized_ap import APLossTerms

    stuck = ParameterizedAPLoss.terms

    def terms(self, *args):
        real = stuck(self, *args)
        return APLossTerms(0 * real.ranking, 0 * real.localization + 1)

    monkeypatch.setattr(ParameterizedAPLoss, "terms", terms)
    monkeypatch.setattr("paramap_d2.search.proxies.proxy.STUCK_ITERATIONS", 3)
    opts = [*tiny, "SOLVER.MAX_ITER", "50"]
    with pytest.raises(NoResultError, match="stayed at 1"):
        run_search(options(tmp_path / "out", opts, generations=1))
    assert {(e.status, e.iterations) for e in rows(tmp_path / "out")} == {("diverged", 3)}
    assert all("stayed at 1" in e.error for e in rows(tmp_path / "out"))


def test_out_of_memory_is_named(tmp_path, tiny, monkeypatch):
    def full(self, *args):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("paramap_d2.losses.ParameterizedAPLoss.terms", full)
    with pytest.raises(NoResultError, match="out of memory"):
        run_search(options(tmp_path / "out", tiny, generations=1, retries=0))
    # Raised in the loss, and yet the machine's.
    assert all(e.error.startswith("out of memory: ") and e.cause == "memory" for e in rows(tmp_path / "out"))


def test_an_exception_in_the_loss_is_the_losss(tmp_path, tiny, monkeypatch):
    from paramap_d2 import losses

    real = losses.ParameterizedAPLoss.terms
    wrong = lambda self, scores, *rest: real(self, scores[:1], *rest)  # noqa: E731
    monkeypatch.setattr(losses.ParameterizedAPLoss, "terms", wrong)
    with pytest.raises(NoResultError, match="all 2 proxies"):
        run_search(options(tmp_path / "out", tiny, generations=1))
    assert [(e.status, e.cause, e.attempt) for e in rows(tmp_path / "out")] == [("failed", "loss", 1)] * 2


@pytest.mark.parametrize(
    "more, opts, message",
    [
        ({"population": 0}, [], "population must be at least 2, not 0"),
        ({"generations": 0}, [], "generations must be at least 1, not 0"),
        ({"workers": 0, "executor": "process"}, [], "workers must be at least 1"),
        ({"workers": 2}, [], "inline executor has one worker"),
        ({"evaluations": 0}, [], "evaluations must be at least 1, not 0"),
        ({"reevaluate": 0}, [], "reevaluate must be at least 1, not 0"),
        ({"retries": -1}, [], "retries must be at least 0, not -1"),
        ({"seed": -1}, [], "seed must be at least 0, not -1"),
        ({"final_iters": 0}, [], "final-iters must be at least 1"),
        ({"cpus_per_proxy": 1.0}, [], "--cpus-per-proxy is an option of --executor ray"),
        ({"algorithm": "luck"}, [], "algorithm must be one of ga, cmaes, random, ppo, not 'luck'"),
        ({"stop": "soon"}, [], "stop must be one of none, median, halving, not 'soon'"),
        ({"fix_grad_scale": -1.0}, [], "fix-grad-scale must be a positive number"),
        ({"init": ["nowhere.json"]}, [], "'nowhere.json' is neither a preset"),
        ({"init": ["square"]}, [], "loss square .--init.: function .* not piecewise linear"),
        ({"init": ["fasterrcnn-coco"]}, [], "has no head 'dense'"),
        ({"init": ["rank-sort"]}, [], "'rank-sort' has no functions to start from"),
        ({}, ["MODEL.PARAM_AP.LOSS", "ap-loss"], "'ap-loss' has no functions to start from"),
        ({"config_file": "nowhere.yaml"}, [], "config file nowhere.yaml does not exist"),
        ({"resume": True}, [], "no search to resume"),
        ({}, ["SOLVER.MAX_ITERS", "5"], "config option SOLVER.MAX_ITERS 5: Non-existent"),
        ({}, ["PROXY.OPTS", "['SEEED', 5]"], "config file .*yaml: PROXY.OPTS: option SEEED 5: Non-existent key"),
        ({}, ["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' at the end has no partner"),
        ({}, ["SOLVER.MAX_ITER", "many"], "config option SOLVER.MAX_ITER many"),
        ({}, ["DATASETS.TRAIN", "('nope_train',)"], "data set 'nope_train' is not registered"),
        ({}, ["SOLVER.BASE_LR", "0.1", "SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER must be at least 1, not 0"),
        ({}, ["DATASETS.TEST", "()"], "DATASETS.TEST names no data set"),
        ({}, ["MODEL.META_ARCHITECTURE", "RetinaNet"], "RetinaNet, which has no Parameterized AP Loss"),
        ({}, ["MODEL.RETINANET.NUM_CLASSES", "80"], "has 3 classes, .* 80"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(tmp_path, tiny, more, opts, message):
    with pytest.raises(UserError, match=message) as raised:
        run_search(options(tmp_path / "out", [*tiny, *opts] if opts[:1] != ["SOLVER.MAX_ITER"] else opts, **more))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "search.db").exists()


def test_the_configs_own_loss_is_among_the_first_where_the_space_holds_it(tmp_path, caplog):
    shared = SearchSpace(("dense",), mode="shared")
    every = options(tmp_path, [])
    assert len(_first_individuals(every, SimpleNamespace(loss="linear"), shared)) == 2 and not caplog.text
    assert _first_individuals(every, SimpleNamespace(loss="retinanet-coco"), shared) == [shared.identity()]
    assert caplog.messages == [
        "the search begins without the config's own loss: loss retinanet-coco: the functions of head 'dense' differ, "
        "and the search shares one for all"
    ]


def test_two_searches_in_one_folder(tmp_path, tiny):
    (tmp_path / "out").mkdir()
    with (
        portalocker.Lock(tmp_path / "out" / ".lock", "w"),
        pytest.raises(StoreError, match="another search is running"),
    ):
        run_search(options(tmp_path / "out", tiny))
    assert os.listdir(tmp_path / "out") == [".lock"]


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_an_output_folder_that_cannot_be_one(tmp_path, tiny, inside):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be the output folder .*; choose another one"):
        run_search(options(tmp_path / "file" / inside, tiny))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_data_set_names_the_variable(tmp_path, tiny):
    opts = [*tiny, "DATASETS.TRAIN", "('coco_2017_train',)"]
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        run_search(options(tmp_path / "out", opts))
