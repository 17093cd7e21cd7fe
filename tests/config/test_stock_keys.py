"""Mistakes in Detectron2's own keys: one line in place of its traceback."""

import pickle
from math import inf, nan

import pytest
import torch
from detectron2.config import LazyCall

from paramap_d2.config import ConfigError, check_config, check_gpus, read_config
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.config.lazy_checks import check_lazy_config
from paramap_d2.config.stock_keys import check_device, check_number, check_stock_keys, check_weights
from paramap_d2.model_zoo import get_config_file


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.META_ARCHITECTURE", "ParamRetinaNet"], "registered; did you mean ParamAPRetinaNet or RetinaNet"),
        (["MODEL.META_ARCHITECTURE", "X"], "ARCHITECTURE is 'X', which nobody registered .One of your own: import"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn"], "BACKBONE.NAME is .*; did you mean build_resnet_fpn_backbone"),
        (["MODEL.DEVICE", "cuda"], "MODEL.DEVICE is cuda, and torch sees no GPU"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE must be a device such as cpu or cuda, not 'gpu'"),
        (["SOLVER.BASE_LR", "-0.1"], "SOLVER.BASE_LR must be at least 0, not -0.1"),
        (["SOLVER.WARMUP_ITERS", "-1"], "SOLVER.WARMUP_ITERS must be at least 0, not -1"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], "SOLVER.CHECKPOINT_PERIOD must be at least 1, not 0"),
        (["SOLVER.LR_SCHEDULER_NAME", "Warmup"], "LR_SCHEDULER_NAME must be one of WarmupMultiStepLR, .* not 'Warmup'"),
        (["DATALOADER.NUM_WORKERS", "-1"], "DATALOADER.NUM_WORKERS must be at least 0, not -1"),
    ],
)
def test_keys_of_any_detector(opts, message):
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), opts)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.ROI_HEADS.NAME", "ParamROIHeads"], "ROI_HEADS.NAME is .*; did you mean ParamAPROIHeads"),
        (["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFC"], "ROI_BOX_HEAD.NAME is .*; did you mean FastRCNNConvFCHead"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RPM"], "PROPOSAL_GENERATOR.NAME is 'RPM', .*; did you mean RPN"),
        (["MODEL.RPN.HEAD_NAME", "RPNHead"], "RPN.HEAD_NAME is 'RPNHead', .*; did you mean StandardRPNHead"),
        (["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "Mask"], "ROI_MASK_HEAD.NAME is 'Mask'"),
        (["MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NAME", "Key"], "ROI_KEYPOINT_HEAD.NAME is 'Key'"),
    ],
)
def test_names_that_an_rcnn_is_made_of(opts, message):
    cfg = read_config(get_config_file("shapes_faster_rcnn_R_18_FPN.yaml"), opts)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


def test_names_that_a_config_does_not_use_or_that_are_its_owners(monkeypatch):
    """A part of the user's own may have no use for a name that is left in its keys."""
    from detectron2.modeling import META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY

    own = {"OwnDetectorToy": META_ARCH_REGISTRY, "OwnGeneratorToy": PROPOSAL_GENERATOR_REGISTRY}
    own["OwnHeadsToy"] = ROI_HEADS_REGISTRY
    for name, registry in own.items():
        monkeypatch.setitem(registry._obj_map, name, type(name, (), {}))
    nothing = ["MODEL.RPN.HEAD_NAME", "", "MODEL.ANCHOR_GENERATOR.NAME", "", "MODEL.ROI_BOX_HEAD.NAME", ""]
    for config, opts in (
        ("shapes_retinanet_R_18_FPN.yaml", ["MODEL.META_ARCHITECTURE", "OwnDetectorToy", "MODEL.BACKBONE.NAME", "x"]),
        ("shapes_faster_rcnn_R_18_FPN.yaml", ["MODEL.PROPOSAL_GENERATOR.NAME", "OwnGeneratorToy"]),
        ("shapes_faster_rcnn_R_18_FPN.yaml", ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]),
    ):
        unused = [*nothing, "MODEL.ROI_HEADS.NAME", "OwnHeadsToy", "MODEL.ROI_MASK_HEAD.NAME", "no mask is trained"]
        check_stock_keys(read_config(get_config_file(config), [*unused, *opts]))


def test_a_schedule_of_a_trainer_of_ones_own():
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"])
    check_stock_keys(cfg, own_trainer=True)
    check_stock_keys(cfg, eval_only=True)
    with pytest.raises(ConfigError, match="not 'WarmupPolyLR'"):
        check_stock_keys(cfg)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["train.device=cuda:1"], "train.device is cuda:1, and torch sees no GPU"),
        (["train.max_iter=0"], "train.max_iter must be at least 1, not 0"),
        (["optimizer.lr=-0.1"], "optimizer.lr must be at least 0, not -0.1"),
        (["train.log_period=0"], "train.log_period must be at least 1, not 0"),
        (["train.checkpointer.period=0"], "train.checkpointer.period must be at least 1, not 0"),
        (["optimizer.lr=fast"], "optimizer.lr is .* and cannot become the word 'fast'"),
        (["train.max_iter=${nowhere.x}"], "Interpolation key 'nowhere.x' not found full_key: train.max_iter"),
        (["dataloader.train.total_batch_size=${nowhere.x}"], "not found full_key: dataloader.train.total_batch_size"),
        (["train.device=${nowhere.x}"], "not found full_key: train.device"),
        (["dataloader.train.num_workers=-1"], "dataloader.train.num_workers must be at least 0, not -1"),
    ],
)
def test_keys_of_lazy_configs(opts, message):
    with pytest.raises(ConfigError, match=message):
        check_lazy_config(read_lazy_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"), opts))


def test_values_of_lazy_configs_that_are_calls_or_left_out():
    cfg = read_lazy_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"))
    cfg.optimizer.lr, cfg.train.device = LazyCall(float)(x="0.1"), None
    check_lazy_config(cfg)
    cfg.optimizer.lr = "0.1"
    with pytest.raises(ConfigError, match="optimizer.lr must be at least 0, not '0.1'"):
        check_lazy_config(cfg)


@pytest.mark.parametrize(
    "value, sound", [(0, True), (3.5, True), (None, True), (-1, False), (inf, False), (nan, False)]
)
def test_numbers(value, sound):
    if sound:
        check_number("KEY", value, 0, whole=False)
    else:
        with pytest.raises(ConfigError, match=f"KEY must be at least 0, not {value}"):
            check_number("KEY", value, 0)


def test_whole_numbers():
    check_number("KEY", 3.0, 0)
    with pytest.raises(ConfigError, match="KEY must be a whole number, not 3.5"):
        check_number("KEY", 3.5, 0)


def test_gpus_that_there_are_not(monkeypatch):
    check_gpus(0), check_gpus(1), check_device("KEY", "cpu"), check_device("KEY", torch.device("meta"))
    check_gpus(2, eval_only=True)  # by gloo
    check_device("KEY", "cuda:7", elsewhere=True)
    with pytest.raises(ConfigError, match="--num-gpus 2: torch sees no GPUs"):
        check_gpus(2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_gpus(2), check_device("KEY", "cuda:1")
    with pytest.raises(ConfigError, match="KEY is cuda:2, and torch sees 2 GPUs, from cuda:0 on"):
        check_device("KEY", "cuda:2")


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "w.pth"
    for legacy in (True, False):
        torch.save({"model": {"x": torch.ones(999)}}, path, _use_new_zipfile_serialization=not legacy)
        check_weights("MODEL.WEIGHTS", f"{path}?matching_heuristics=True")
    for content in (path.read_bytes()[:1000], b"an HTML page", b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="MODEL.WEIGHTS is .*w.pth, which is no checkpoint, or not a whole one"):
            check_weights("MODEL.WEIGHTS", str(path))
    path.write_bytes(pickle.dumps({"model": {}}))
    check_weights("MODEL.WEIGHTS", str(path))
    path.write_bytes(b"of a trainer of one's own")
    check_weights("MODEL.WEIGHTS", str(path), content=False)
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": {}}, protocol=0))
    check_weights("MODEL.WEIGHTS", str(tmp_path / "zoo.pkl"))
    check_weights("MODEL.WEIGHTS", "detectron2://x.pkl", needed=True)


def test_weights_that_are_not_there():
    check_weights("MODEL.WEIGHTS", "")
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is nowhere.pth, which does not exist"):
        check_weights("MODEL.WEIGHTS", "nowhere.pth")
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is /, which is a folder"):
        check_weights("MODEL.WEIGHTS", "/")
    with pytest.raises(ConfigError, match="train.init_checkpoint names no weights, and --eval-only"):
        check_weights("train.init_checkpoint", "", needed=True)
