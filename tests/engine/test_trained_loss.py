"""What a training leaves of its loss, and that a folder so left predicts wherever it is copied to."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor, HookBase
from detectron2.utils.env import seed_all_rng

from paramap_d2.config import add_paramap_config, read_config
from paramap_d2.engine import Trainer
from paramap_d2.engine.calibration import CALIBRATED
from paramap_d2.engine.trained_loss import TrainedLoss
from paramap_d2.losses import HeadLoss, LossFileError, load_any_loss, load_loss, save_loss
from paramap_d2.modeling import BoxAPLoss

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"


def hook(folder, start_iter=0, **losses):
    """The hook of a training whose model has these heads."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in losses})
    for name, loss in losses.items():
        model[name].box_ap_loss = loss
    made = TrainedLoss(folder)
    made.trainer = SimpleNamespace(model=model, start_iter=start_iter, iter=start_iter, max_iter=1000)
    return made


def warnings(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_functions_that_were_trained_with(tmp_path):
    heads = [BoxAPLoss(head, "fasterrcnn-coco", grad_scale=scale) for head, scale in (("rpn", 2.5), ("roi", 0))]
    hook(tmp_path / "new", rpn=heads[0], roi=heads[1], again=heads[1]).before_train()
    preset, left = load_loss("fasterrcnn-coco"), load_loss(tmp_path / "new" / "loss.json")
    assert left == {"rpn": HeadLoss(preset["rpn"].functions, 2.5), "roi": preset["roi"]}
    assert json.loads((tmp_path / "new" / "loss.json").read_text())["meta"]["trained_with"] == "fasterrcnn-coco"


def test_a_model_without_the_loss_leaves_none(tmp_path):
    hook(tmp_path).before_train()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start_iter", [0, 60])
def test_nothing_of_an_earlier_training_is_taken_for_that_of_a_model_without_the_loss(tmp_path, start_iter):
    for name in ("loss.json", "end_loss.json"):
        (tmp_path / name).touch()
    hook(tmp_path, start_iter).before_train()
    assert bool(list(tmp_path.iterdir())) == bool(start_iter)


@pytest.mark.parametrize(
    "start_iter, end, kept", [(0, 1000, False), (600, 1000, False), (0, 400, True), (1000, 1000, True)]
)
def test_calibrated_weights_go_with_those_that_they_were_made_of(tmp_path, start_iter, end, kept):
    """Of 1,000 iterations: ended, cut off, and resumed when it had ended."""
    for name in CALIBRATED:
        (tmp_path / name).touch()
    made = hook(tmp_path, start_iter, dense=BoxAPLoss("dense", "linear"))
    made.before_train()
    made.trainer.iter = end
    made.after_train()
    assert [(tmp_path / name).exists() for name in CALIBRATED] == [kept] * len(CALIBRATED)


@pytest.mark.parametrize("then", ["square", "sqrt"])
def test_a_loss_that_trained_nothing_is_not_told_of(tmp_path, then, caplog):
    """Resumed with another loss, cut off before a checkpoint, and resumed at the same iteration again."""
    for start_iter, loss in ((0, "square"), (120, "linear"), (120, then)):
        hook(tmp_path, start_iter, dense=BoxAPLoss("dense", loss)).before_train()
    assert load_loss(tmp_path / "loss.json")["dense"] == load_loss(then)["dense"]
    left = sorted(path.name for path in tmp_path.iterdir())
    if then == "square":
        assert left == ["loss.json"]
    else:
        assert left == ["loss.json", "loss_until_120.json"]
        assert load_loss(tmp_path / "loss_until_120.json")["dense"] == load_loss("square")["dense"]


def test_a_loss_that_cannot_be_read_is_told_before_the_first_step(tmp_path):
    made = hook(tmp_path, dense=BoxAPLoss("dense", "nowhere.json"))
    with pytest.raises(LossFileError, match="nowhere.json"):
        made.before_train()
    made.after_train()  # as Detectron2 does whatever was raised


@pytest.mark.parametrize("before", ["square", "damaged"])
def test_a_training_that_goes_on_with_another_loss_says_so(tmp_path, before, caplog):
    path = tmp_path / "loss.json"
    if before == "damaged":
        path.write_text("{")
    else:
        hook(tmp_path, dense=BoxAPLoss("dense", before)).before_train()
    content = path.read_text()
    with caplog.at_level(logging.WARNING):
        hook(tmp_path, 120, dense=BoxAPLoss("dense", "linear")).before_train()
    (record,) = warnings(caplog)
    assert "up to iteration 120" in record.message and "it is now linear" in record.message
    assert (tmp_path / "loss_until_120.json").read_text() == content
    assert load_loss(path)["dense"] == load_loss("linear")["dense"]


@pytest.mark.parametrize("first, then", [("square", "ap-loss"), ("ap-loss", "square"), ("ap-loss", "rank-sort")])
def test_a_loss_without_functions_is_left_too(tmp_path, first, then, caplog):
    path = tmp_path / "loss.json"
    for start_iter, loss in ((0, first), (60, first), (120, then)):
        hook(tmp_path, start_iter, dense=BoxAPLoss("dense", loss, grad_scale=2.0)).before_train()
        assert load_any_loss(path)["dense"] == replace(load_any_loss(loss)["dense"], grad_scale=2.0)
    assert load_any_loss(tmp_path / "loss_until_120.json")["dense"].grad_scale == 2.0
    assert [r.message.count(f"it is now {then}") for r in warnings(caplog)] == [1]


@pytest.mark.parametrize("start_iter", [0, 120])
def test_the_same_loss_by_another_name_is_no_change(tmp_path, start_iter, caplog):
    save_loss(tmp_path / "loss.json", {"dense": load_loss("retinanet-coco")["dense"]}, {"searched": "here"})
    with caplog.at_level(logging.WARNING):
        hook(tmp_path, start_iter, dense=BoxAPLoss("dense", "retinanet-coco")).before_train()
    assert not warnings(caplog) and [p.name for p in tmp_path.iterdir()] == ["loss.json"]
    assert json.loads((tmp_path / "loss.json").read_text())["meta"] == {"searched": "here"}


def test_a_copied_folder_predicts_from_anywhere(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_loss("best.json", load_loss("retinanet-coco"))
    cfg = read_config(
        CONFIGS / "shapes_retinanet_R_18_FPN.yaml",
        [*tiny, "MODEL.PARAM_AP.LOSS", "best.json", "OUTPUT_DIR", "out", "TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 1],
    )
    cfg.DATASETS.TEST = ()
    Path("out").mkdir()
    Path("out/config.yaml").write_text(cfg.dump())  # as Detectron2's default_setup does
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shutil.copytree("out", tmp_path / "elsewhere" / "copied")
    for one in ("out", "best.json"):
        shutil.rmtree(one) if one == "out" else Path(one).unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    served = get_cfg()
    add_paramap_config(served)
    served.merge_from_file("copied/config.yaml")
    served.MODEL.WEIGHTS = "copied/model_final.pth"
    found = DefaultPredictor(served)(image)["instances"]
    trainer.model.eval()
    with torch.no_grad():
        tensor = torch.as_tensor(image.transpose(2, 0, 1).copy())
        (wanted,) = trainer.model([{"image": tensor, "height": 64, "width": 64}])
    assert len(found) == len(wanted["instances"]) > 0
    torch.testing.assert_close(found.scores, wanted["instances"].scores)
    assert load_loss("copied/loss.json")["dense"] == load_loss("retinanet-coco")["dense"]


def train_with_end(folder, end_loss, iterations=10, start_iter=0, end_loss_from=0.5, loss="square", at=None):
    """The hook over the iterations of a training, and the name of the loss that each had.

    Args:
        at: an iteration and what is done before it.
    """
    losses = BoxAPLoss("rpn", loss), BoxAPLoss("roi", loss, grad_scale=3.0), BoxAPLoss("roi", loss)
    made = hook(folder, start_iter, **dict(zip("abc", losses, strict=True)))
    made.end_loss, made.end_loss_from, made.trainer.max_iter = end_loss, end_loss_from, iterations
    made.before_train()
    names = []
    for made.trainer.iter in range(start_iter, iterations):
        if at and at[0] == made.trainer.iter:
            at[1]()
        made.before_step()
        assert {one.loss for one in losses} == {losses[0].loss}
        assert [one.ranking_loss.grad_scale for one in losses[:2]] == [1.0, 3.0]  # an option, not the loss's own
        names.append(losses[0].loss)
        for one in losses:
            assert at or type(one.ranking_loss) is type(BoxAPLoss(one.head, names[-1]).ranking_loss)
    made.after_train()
    assert {one.loss for one in losses} == {loss}  # a model that is trained once more begins with its own
    return names


def functions(path, head="roi"):
    return load_loss(path)[head].functions


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("start_iter", range(10))
def test_a_training_ends_with_another_loss_resumed_or_not(tmp_path, start_iter, caplog):
    assert train_with_end(tmp_path, "linear", end_loss_from=0.6) == ["square"] * 6 + ["linear"] * 4
    files = contents(tmp_path)
    assert sorted(files) == ["end_loss.json", "loss.json"]
    assert functions(tmp_path / "loss.json") == functions("square")
    assert functions(tmp_path / "end_loss.json") == functions("linear")
    assert json.loads(files["end_loss.json"])["meta"]["from_iteration"] == 6
    with caplog.at_level(logging.WARNING):
        again = train_with_end(tmp_path, "linear", 10, start_iter, end_loss_from=0.6)
    assert again == (["square"] * 6 + ["linear"] * 4)[start_iter:]
    assert not warnings(caplog) and contents(tmp_path) == files


@pytest.mark.parametrize("loss, end_loss", [("square", "ap-loss"), ("rank-sort", "linear")])
def test_losses_without_functions_take_part(tmp_path, loss, end_loss):
    assert train_with_end(tmp_path, end_loss, 4, loss=loss) == [loss] * 2 + [end_loss] * 2
    assert load_any_loss(tmp_path / "end_loss.json")["rpn"] == load_any_loss(end_loss)["rpn"]


@pytest.mark.parametrize("iterations, share, first", [(3, 0.1, 1), (3, 0.9, 2), (1, 0.5, 1), (2, 0.5, 1)])
def test_each_of_the_two_has_an_iteration(tmp_path, iterations, share, first):
    names = train_with_end(tmp_path, "linear", iterations, end_loss_from=share)
    assert names == ["square"] * first + ["linear"] * (iterations - first)


def test_no_end_loss_is_the_own_to_the_end(tmp_path):
    assert train_with_end(tmp_path, "", 4, end_loss_from=None) == ["square"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["loss.json"]


@pytest.mark.parametrize("start_iter", [3, 7])
@pytest.mark.parametrize(
    "changed, now, used",
    [
        ({"end_loss": ""}, "end loss was another .*; it is now square, as before it", ["square"] * 10),
        (
            {"end_loss": "sqrt"},
            "end loss was another .*; it is now sqrt from iteration 5 on",
            ["square"] * 5 + ["sqrt"] * 5,
        ),
        (
            {"end_loss_from": 0.9},
            "end loss was to begin at iteration 5 .*; it is now linear from iteration 9 on",
            ["square"] * 9 + ["linear"],
        ),
        ({"loss": "sigmoid"}, "loss was another .*; it is now sigmoid", ["sigmoid"] * 5 + ["linear"] * 5),
    ],
)
def test_another_schedule_on_resume_is_said(tmp_path, start_iter, changed, now, used, caplog):
    train_with_end(tmp_path, "linear")
    file = "loss" if "loss" in changed else "end_loss"
    before = contents(tmp_path)
    with caplog.at_level(logging.WARNING):
        names = train_with_end(tmp_path, **{"end_loss": "linear", "start_iter": start_iter, **changed})
    assert names == used[start_iter:]
    (record,) = warnings(caplog)
    assert re.search(f"up to iteration {start_iter} this training's {now}$", record.message)
    left = contents(tmp_path)
    assert left.pop(f"{file}_until_{start_iter}.json") == before[f"{file}.json"]
    assert sorted(left) == (["loss.json"] if changed == {"end_loss": ""} else ["end_loss.json", "loss.json"])


def test_the_change_is_in_the_log_of_a_training(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "detectron2"):
        train_with_end(tmp_path, "linear")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["from iteration 5 on this training's loss is linear"]


def test_a_new_training_in_an_old_folder_leaves_its_own(tmp_path, caplog):
    train_with_end(tmp_path, "linear")
    with caplog.at_level(logging.WARNING):
        train_with_end(tmp_path, "")
    assert not warnings(caplog) and list(contents(tmp_path)) == ["loss.json"]


@pytest.mark.parametrize("meta", [None, [1], {}])
def test_a_file_that_says_nothing_of_itself_is_read_all_the_same(tmp_path, meta, caplog):
    train_with_end(tmp_path, "linear")
    path = tmp_path / "end_loss.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "meta": meta}))
    with caplog.at_level(logging.WARNING):
        assert train_with_end(tmp_path, "linear", start_iter=7) == ["linear"] * 3
    assert not warnings(caplog)


def test_the_end_loss_is_what_its_file_had_at_the_start(tmp_path):
    best = tmp_path / "best.json"
    for at in (lambda: save_loss(best, load_loss("sqrt")), best.unlink):
        save_loss(best, load_loss("linear"))
        assert train_with_end(tmp_path / "out", str(best), at=(4, at))[-1] == str(best)
        assert functions(tmp_path / "out" / "end_loss.json") == functions("linear")


def test_an_end_loss_that_cannot_be_read_is_told_before_the_first_step(tmp_path):
    with pytest.raises(LossFileError, match="nowhere.json"):
        train_with_end(tmp_path, "nowhere.json")
    with pytest.raises(LossFileError, match="no head 'rpn'"):
        train_with_end(tmp_path, "retinanet-coco")


class Losses(HookBase):
    def __init__(self, seen):
        self.seen = seen

    def after_step(self):
        self.seen.append(self.trainer.storage.latest()["total_loss"][0])


@pytest.mark.slow
def test_a_training_that_ends_with_another_loss_is_one_that_is_resumed_with_it(tmp_path, tiny):
    """And one that is resumed on either side of the change goes on to the same losses."""

    def losses(folder, *opts, resume=False, until=4):
        opts = [*tiny, "OUTPUT_DIR", str(folder), "TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD", 1, *opts]
        cfg = read_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml", [*opts, "SOLVER.MAX_ITER", 4])
        cfg.DATASETS.TEST = ()
        seed_all_rng(0)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume)
        trainer.max_iter = until
        seen: list[float] = []
        trainer.register_hooks([Losses(seen)])
        trainer.train()
        return seen

    def resumed(after, *opts):
        """From the checkpoint after so many iterations of the training without an end loss."""
        folder = tmp_path / f"{after}{len(opts)}"
        folder.mkdir()
        name = f"model_{after - 1:07}.pth"
        shutil.copy(tmp_path / "plain" / name, folder)
        (folder / "last_checkpoint").write_text(name)
        return losses(folder, *opts, resume=True)

    ends = ["MODEL.PARAM_AP.END_LOSS", "linear", "MODEL.PARAM_AP.END_LOSS_FROM", 0.75]
    square = ["MODEL.PARAM_AP.LOSS", "square"]
    plain = losses(tmp_path / "plain", *square)
    ended = losses(tmp_path / "ended", *square, *ends)
    assert ended[:3] == plain[:3] and ended[3] != plain[3]
    assert resumed(3, *square, *ends) == resumed(3, "MODEL.PARAM_AP.LOSS", "linear")
    assert resumed(2, *square, *ends)[0] == resumed(2, *square)[0]
