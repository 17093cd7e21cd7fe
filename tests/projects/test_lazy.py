"""Training from a LazyConfig: as from YAML, and with errors that a user can act on."""

import builtins
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import HookBase, hooks
from detectron2.utils.env import seed_all_rng
from omegaconf import OmegaConf

from paramap_d2.config import ConfigError, read_config
from paramap_d2.config.lazy import (
    apply_options,
    detector_heads,
    loss_keys,
    read_lazy_config,
    set_loss,
    settings,
)
from paramap_d2.config.lazy_checks import check_lazy_config
from paramap_d2.engine import Trainer
from paramap_d2.engine import lazy as lazy_training
from paramap_d2.engine.calibration import CalibrationHook
from paramap_d2.errors import UserError
from paramap_d2.losses import load_loss

from ..data.absent import make_absent

PROJECT = Path(__file__).parents[2] / "projects" / "ParamAP"
CONFIGS = PROJECT / "configs"
RETINANET = CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py"
FASTER = CONFIGS / "lazy" / "shapes_faster_rcnn_R_18_FPN.py"
DETR = CONFIGS / "lazy" / "shapes_deformable_detr_R_18.py"


class Curve(HookBase):
    def __init__(self):
        self.losses = []

    def after_step(self):
        self.losses.append(self.trainer.storage.latest()["total_loss"][0])


def yaml_trainer(name, opts):
    class Bare(Trainer):
        def build_hooks(self):
            return [hooks.LRScheduler()]

    cfg = read_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu", *opts])
    seed_all_rng(cfg.SEED)
    trainer = Bare(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


def lazy_trainer(name, opts):
    cfg = read_lazy_config(CONFIGS / "lazy" / f"{name}.py", ["train.device=cpu", *opts])
    seed_all_rng(cfg.train.seed)
    trainer = lazy_training.build_trainer(cfg)
    DetectionCheckpointer(trainer.model).load(cfg.train.init_checkpoint)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "shapes_retinanet_R_18_FPN",
        "shapes_faster_rcnn_R_18_FPN",
        "shapes_deformable_detr_R_18",
        "shapes_retinanet_lite0_FPN",
        "bccd_retinanet_lite0_FPN",
    ],
)
def test_the_same_seed_gives_the_same_losses_by_either_way_in(name, tiny, lazy_tiny, tmp_path):
    opts = [*tiny, "SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "1", "OUTPUT_DIR", str(tmp_path)]
    lazy_opts = [*lazy_tiny, "train.max_iter=3", "lr_multiplier.warmup_iters=1"]
    if "detr" in name:
        pytest.importorskip("transformers")
    trainer = yaml_trainer(name, opts)
    curves = [Curve(), Curve()]
    trainer.register_hooks(curves[:1])
    trainer.train()
    trainer = lazy_trainer(name, lazy_opts)
    trainer.register_hooks(curves[1:])
    trainer.train(0, 3)
    assert len(curves[0].losses) == 3
    assert curves[1].losses == pytest.approx(curves[0].losses, rel=1e-6)


@pytest.mark.slow
def test_train_net_trains_resumes_and_evaluates(lazy_tiny, tmp_path, capsys, monkeypatch):
    calibrated = []
    monkeypatch.setattr(CalibrationHook, "after_train", lambda hook: calibrated.append(hook.dataset_name))
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", PROJECT / "lazyconfig_train_net.py")
    train_net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_net)
    from detectron2.engine import default_argument_parser

    def run(*words):
        opts = [*lazy_tiny, f"train.output_dir={tmp_path}/out", "train.end_loss=linear"]
        return train_net.main(
            default_argument_parser().parse_args(["--config-file", str(RETINANET), *words[:1], *opts, *words[1:]])
        )

    run("--num-gpus=0", "train.calibrate_on=tiny_val")
    assert calibrated == ["tiny_val"]
    assert list(load_loss(tmp_path / "out" / "loss.json")) == ["dense"]  # what it trained with
    assert load_loss(tmp_path / "out" / "end_loss.json")["dense"] == load_loss("linear")["dense"]
    assert (tmp_path / "out" / "model_final.pth").exists() and (tmp_path / "out" / "metrics.json").exists()
    saved = LazyConfig.load(str(tmp_path / "out" / "config.yaml"))  # what was trained can be read again
    assert saved.train.max_iter == 2 and instantiate(saved.model).box_ap_loss is not None
    assert not list((tmp_path / "out").glob("*.pkl"))
    run("--resume", "train.max_iter=3")
    checkpoint = torch.load(tmp_path / "out" / "model_final.pth", weights_only=False)
    assert checkpoint["iteration"] == 2
    results = run("--eval-only", f"train.init_checkpoint={tmp_path}/out/model_final.pth")
    assert "AP50" in results["bbox"]


def test_mixed_precision_uses_its_trainer(lazy_tiny):
    from detectron2.engine import AMPTrainer

    cfg = read_lazy_config(RETINANET, [*lazy_tiny, "train.amp.enabled=true"])
    assert isinstance(lazy_training.build_trainer(cfg), AMPTrainer)


def test_losses_are_chosen_by_short_keys():
    cfg = read_lazy_config(RETINANET, ["model.param_ap.loss=square"])
    assert detector_heads(cfg) == ("dense",) and loss_keys(cfg) == ["model.param_ap.loss"]
    assert cfg.model.param_ap.loss == "square"
    cfg = read_lazy_config(FASTER, ["param_ap.loss=square", "param_ap.quality=iou"])
    assert detector_heads(cfg) == ("rpn", "roi") and loss_keys(cfg) == ["param_ap.loss"]
    for options in (cfg.model.proposal_generator.param_ap, cfg.model.roi_heads.box_predictor.param_ap):
        assert (options.loss, options.quality, options.block_gradient) == ("square", "iou", True)
    set_loss(cfg, "linear")
    assert cfg.param_ap.loss == "linear"


def test_an_option_through_a_reference_changes_what_it_refers_to():
    cfg = read_lazy_config(FASTER, ["model.proposal_generator.param_ap.loss=square"])
    assert cfg.param_ap.loss == cfg.model.roi_heads.box_predictor.param_ap.loss == "square"


def test_options_may_add_what_they_say_they_add():
    cfg = read_lazy_config(RETINANET, ["+model.max_detections_per_image=7"])
    assert cfg.model.max_detections_per_image == 7


def test_what_a_config_leaves_out(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        f"from detectron2.config import LazyConfig\n_whole = LazyConfig.load({str(RETINANET)!r})\n"
        "model, optimizer, lr_multiplier = _whole.model, _whole.optimizer, _whole.lr_multiplier\n"
        "dataloader = _whole.dataloader\ntrain = dict(max_iter=5)\n"
    )
    cfg = read_lazy_config(path)
    assert cfg.train.seed == -1 and cfg.train.max_iter == 5 and not cfg.train.amp.enabled and cfg.proxy.opts == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("model = = 3", r"config.py: SyntaxError: invalid syntax, line 1"),
        ("x = 1\nmodel = nothing", r"config.py, line 2: NameError: name 'nothing' is not defined"),
        ("import no_such_module", r"config.py, line 1: ModuleNotFoundError"),
        ("from .no_such_file import model", r"config.py, line 1: ImportError: .*does not exist"),
        ("model = dict(a=1)", r"config.py defines no optimizer"),
        ("raise SystemError('two\\nlines')", r"config.py, line 1: SystemError: two lines"),
    ],
)
def test_a_config_that_fails_is_one_line_and_leaves_no_trace(tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    before = builtins.__import__
    with pytest.raises(ConfigError, match=message) as raised:
        read_lazy_config(path)
    assert "\n" not in str(raised.value)
    assert builtins.__import__ is before


@pytest.mark.parametrize(
    "option, message",
    [
        ("model.param_ap.los=square", "the config has no model.param_ap.los; did you mean model.param_ap.loss"),
        ("train.max_iters=5", "did you mean train.max_iter"),
        ("nothing=5", "the config has no nothing"),
        ("model.nothing.at.all=5", "the config has no model.nothing.at.all"),
        ("train.max_iter", "not of the form key=value"),
        ("train.max_iter=many", "train.max_iter is 200 and cannot become the word 'many'"),
        ("dataloader.train.mapper.augmentations.9.max_size=5", "the config has no dataloader.train.mapper.augmen"),
        ("~train.seed", "cannot be deleted"),
        ("SOLVER.MAX_ITER", "not of the form key=value"),
    ],
)
def test_an_option_that_does_not_fit_is_one_line(option, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_lazy_config(RETINANET, [option])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "file, option, message",
    [
        (RETINANET, "model.param_ap.loss=fasterrcnn-coco", "loss fasterrcnn-coco has no head 'dense'"),
        (FASTER, "param_ap.loss=retinanet-coco", "loss retinanet-coco has no head 'rpn'"),
        (RETINANET, "+model.param_ap.quality=diou", "must be one of giou, iou, l1, not 'diou'"),
        (RETINANET, "model.param_ap.loss=nowhere.json", "'nowhere.json' is neither a preset"),
        (RETINANET, "+model.param_ap.grad_scale=-1", "must be positive, or 0 for the loss's own, not -1"),
        (RETINANET, "train.end_loss=fasterrcnn-coco", "loss fasterrcnn-coco has no head 'dense'"),
        (RETINANET, "train.end_loss=[sqrt]", "train.end_loss must be the name of a loss, or empty, not .'sqrt'."),
        (RETINANET, "train.end_loss=sqrt train.end_loss_from=null", "end_loss_from must lie between .* not None"),
        (
            RETINANET,
            "train.end_loss=linear train.end_loss_from=0",
            "train.end_loss_from must lie between 0 and 1, .* 0",
        ),
        (RETINANET, "train.amp.enabled=true", "train.amp.enabled needs a GPU, and torch sees none"),
        (RETINANET, "dataloader.train.total_batch_size=0", "total_batch_size must be at least 1, not 0"),
        (RETINANET, "train.output_dir=/dev/null", "/dev/null cannot be the output folder .*; choose another one"),
        (DETR, "model.hidden_dim=65", "hidden_dim must be a multiple of 32"),
        (RETINANET, "model.num_classes=80", "data set shapes_train has 3 classes, and the config's detector 80"),
        (RETINANET, "dataloader.train.dataset.names=nope_train", "data set 'nope_train' is not registered"),
    ],
)
def test_what_does_not_fit_is_known_before_anything_is_built(file, option, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        check_lazy_config(read_lazy_config(file, option.split()))


def test_data_that_is_not_there_is_known_before_anything_is_built(tmp_path, monkeypatch):
    make_absent("coco_2017_train", tmp_path, monkeypatch)
    with pytest.raises(UserError, match="'coco_2017_train' needs .* does not exist: set DETECTRON2_DATASETS"):
        check_lazy_config(read_lazy_config(CONFIGS / "lazy" / "coco_fcos_R_50_FPN.py"))


def test_the_highest_scores_are_those_of_one_process():
    cfg = read_lazy_config(RETINANET, ["+model.param_ap.top_k=9"])
    check_lazy_config(cfg)
    with pytest.raises(UserError, match=r"model.param_ap.top_k .* 2 of them, add model.param_ap.global_batch=False"):
        check_lazy_config(cfg, processes=2)
    check_lazy_config(read_lazy_config(RETINANET, ["+model.param_ap.top_k=9", "+model.param_ap.global_batch=False"]))


def test_what_means_nothing_to_a_loss_without_functions_is_known_before_anything_is_built():
    cfg = read_lazy_config(RETINANET, ["model.param_ap.loss=ap-loss", "+model.param_ap.top_k=9"])
    with pytest.raises(UserError, match="top_k .* ap-loss has no use for 9"):
        check_lazy_config(cfg)


@pytest.mark.slow
def test_the_command_line_ends_in_one_line():
    def run(*words):
        command = [sys.executable, "-W", "ignore", str(PROJECT / "lazyconfig_train_net.py"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    ended = run("--config-file", "nowhere.py")
    assert (ended.returncode, ended.stderr) == (2, "error: config file nowhere.py does not exist\n")
    ended = run("--config-file", str(RETINANET), "model.param_ap.loss=nowhere.json")
    assert ended.returncode == 2 and ended.stderr.startswith("error: loss 'nowhere.json' is neither")
    assert ended.stderr.count("\n") == 1


def test_settings_are_the_same_whenever_they_are_read(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"from detectron2.config import LazyConfig\nLOADED = LazyConfig.load({str(FASTER)!r})\n")
    first, again = (settings(read_lazy_config(FASTER)) for _ in range(2))
    assert first == again and not any(" at 0x" in value for value in first.values())
    assert first["train.max_iter"] == "200" and first["model._target_"].endswith("GeneralizedRCNN")
    assert first["model.proposal_generator.param_ap"] == "${param_ap}"


def test_interpolations_follow_options():
    cfg = read_lazy_config(RETINANET, ["train.max_iter=77", "optimizer.lr=0.5"])
    assert cfg.lr_multiplier.max_iter == 77 and cfg.optimizer.params.base_lr == 0.5
    apply_options(cfg, ["dataloader.test.dataset.names=bccd_val"])
    assert OmegaConf.select(cfg, "dataloader.evaluator.dataset_name") == "bccd_val"


def test_evaluator_and_test_images_are_of_one_data_set(tiny_datasets):
    file = CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py"
    opts = ["dataloader.train.dataset.names=tiny_train", "dataloader.test.dataset.names=tiny_val"]
    with pytest.raises(ConfigError, match="evaluator is of data set shapes_val, and dataloader.test gives"):
        check_lazy_config(read_lazy_config(file, [*opts, "dataloader.evaluator.dataset_name=shapes_val"]))
