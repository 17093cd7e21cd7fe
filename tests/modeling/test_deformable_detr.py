"""Deformable DETR as a Detectron2 detector: trained, saved, configured, predicting."""

import math
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from detectors import CONFIGS, ap50, batch, losses, overfit
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detr import OPTIONS, backbone, detections, detector, image, images, spread
from omegaconf import OmegaConf

from paramap_d2.config import ConfigError, check_config, detector_heads, merge_options, read_config
from paramap_d2.data.checks import CheckedDataset
from paramap_d2.engine import Trainer
from paramap_d2.errors import UserError
from paramap_d2.losses import SIBLINGS, LossFileError
from paramap_d2.modeling import ParamAPCriterion, ParamAPDeformableDETR
from paramap_d2.modeling.box_ap_loss import warn_of_score_threshold

CONFIG = CONFIGS / "shapes_deformable_detr_R_18.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_overfits_two_images(criterion):
    model, inputs = detector(criterion=criterion, num_feature_levels=2, dim_feedforward=128), batch(count=2)
    assert ap50(model, inputs) < 0.5
    overfit(model, inputs, iterations=150)
    assert ap50(model, inputs) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("loss", SIBLINGS)
def test_overfits_an_image_with_the_losses_without_functions(loss):
    model, inputs = detector(param_ap={"loss": loss}, num_feature_levels=2, dim_feedforward=128), batch(count=1)
    assert ap50(model, inputs) < 0.1
    overfit(model, inputs, iterations=80)
    assert ap50(model, inputs) > 0.7


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)
    return True


@pytest.mark.parametrize("box_refine", [True, False])
def test_checkpoint_round_trip(tmp_path, box_refine):
    model = spread(detector(box_refine=box_refine))
    before = detections(model, images())
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    other = detector(seed=2, box_refine=box_refine)
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    assert same(before, detections(other, images()))
    # The criterion has no weights: a detector goes on with another loss.
    other = detector(seed=2, box_refine=box_refine, criterion="focal")
    incompatible = DetectionCheckpointer(other)._load_model({"model": model.state_dict(), "matching_heuristics": False})
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    assert same(before, detections(other, images()))


def test_backbone_weights_load_as_for_any_detectron2_model(tmp_path):
    pretrained = spread(backbone())
    path = tmp_path / "R-X.pkl"
    weights = {name: w.numpy() for name, w in pretrained.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "test", "matching_heuristics": True}))
    model = detector(seed=2)
    DetectionCheckpointer(model).load(str(path))
    loaded = model.detr.model.backbone.backbone.state_dict()
    for name, weight in pretrained.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(loaded[name], weight), name


def test_detections_in_the_original_size_by_falling_score():
    model = spread(detector(max_detections=30))
    x = {"image": image(64, 48, [], [])["image"]}
    (small,), (large,) = detections(model, [x]), detections(model, [{**x, "height": 128, "width": 96}])
    assert small.image_size == (64, 48) and large.image_size == (128, 96)
    assert 0 < len(small) <= 30
    torch.testing.assert_close(small.pred_boxes.tensor * 2, large.pred_boxes.tensor)
    assert (small.scores.diff() <= 0).all()
    limit = float(small.scores[10])
    model.score_thresh = limit
    (some,) = detections(model, [x])
    assert len(some) == (small.scores >= limit).sum() < len(small)


def test_far_from_zero_scores_keep_their_order():
    model = detector()
    logits = torch.full((20, 3), 40.0)
    logits[7, 2] = 41.0
    found = model.detections(logits, torch.full((20, 4), 0.25), (64, 64))
    assert found.pred_classes[0] == 2 and found.scores[0] == 1.0
    found = model.detections(-200 - logits, torch.full((20, 4), 0.25), (64, 64))
    assert len(found) == 60


def test_default_predictor(tmp_path):
    cfg = read_config(CONFIG, ["MODEL.DEVICE", "cpu", "TEST.DETECTIONS_PER_IMAGE", 40])
    check = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    DetectionCheckpointer(check, str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    found = DefaultPredictor(cfg)(np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8))
    instances = found["instances"]
    assert instances.image_size == (90, 150)
    assert 0 < len(instances) <= 40
    assert (instances.pred_boxes.tensor >= 0).all()
    assert (instances.pred_boxes.tensor <= torch.tensor([150, 90, 150, 90])).all()


def test_built_from_a_lazy_config():
    stages = [
        LazyCall(ResNet.make_stage)(
            block_class=BasicBlock, num_blocks=1, stride_per_block=[2], in_channels=16, out_channels=32, norm="BN"
        )
    ]
    net = LazyCall(ResNet)(
        stem=LazyCall(BasicStem)(in_channels=3, out_channels=16), stages=stages, out_features=["res2"]
    )
    criterion = LazyCall(ParamAPCriterion)(num_classes="${..num_classes}", param_ap={"loss": "linear", "top_k": 30})
    lazy = LazyCall(ParamAPDeformableDETR)(backbone=net, criterion=criterion, **{**OPTIONS, "in_features": ["res2"]})
    model = instantiate(OmegaConf.create(OmegaConf.to_container(lazy), flags={"allow_objects": True}))
    found, _ = losses(model, images())
    assert all(loss.isfinite() for loss in found.values())
    assert model.criterion.num_classes == 3 and model.criterion.box_ap_loss.ranking_loss.top_k == 30


def test_a_diverged_model_says_so():
    model = detector()
    with torch.no_grad():
        model.detr.model.level_embed.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        losses(model, images())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"hidden_dim": 48}, "hidden_dim must be a multiple of 32"),
        ({"num_heads": 3}, "hidden_dim must be a multiple of 32 and of num_heads = 3"),
        ({"dec_layers": 1}, "dec_layers must be at least 2"),
        ({"num_feature_levels": 1}, "num_feature_levels must be at least"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        detector(**options)


@pytest.fixture
def data(monkeypatch):
    three = partial(CheckedDataset, classes=("a", "b", "c"), objects=1)
    monkeypatch.setattr("paramap_d2.data.check_content", lambda names, images: [three(name) for name in names])
    return ["DATASETS.TRAIN", "('detr_toy',)", "DATASETS.TEST", "()"]


def test_configs_are_checked_before_a_model_is_built(data):
    cfg = read_config(CONFIG, data)
    check_config(cfg)
    assert detector_heads(cfg) == ("detr",)
    assert detector_heads(read_config(CONFIG, ["MODEL.DEFORMABLE_DETR.CRITERION", "focal"])) == ()
    for opts, error, words in [
        (["MODEL.DEFORMABLE_DETR.CRITERION", "giou"], ConfigError, "MODEL.DEFORMABLE_DETR: criterion must be"),
        (["MODEL.DEFORMABLE_DETR.HIDDEN_DIM", 50], ConfigError, "MODEL.DEFORMABLE_DETR: hidden_dim"),
        (["MODEL.DEFORMABLE_DETR.NUM_CLASSES", 4], ConfigError, "3 classes, and the config's detector 4"),
        (["MODEL.PARAM_AP.LOSS", "retinanet-coco"], LossFileError, "no head 'detr'"),
        (["SOLVER.LR_FACTORS", "[['backbone']]"], ConfigError, "SOLVER.LR_FACTORS"),
    ]:
        with pytest.raises(error, match=words) as raised:
            check_config(read_config(CONFIG, [*data, *opts]))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("package", ["transformers", "scipy.optimize"])
def test_without_the_library_it_says_what_to_install(monkeypatch, data, package):
    monkeypatch.setitem(sys.modules, package, None)
    for build in (detector, lambda: check_config(read_config(CONFIG, data))):
        with pytest.raises(UserError, match=r"pip install 'paramap_d2\[detr\]'") as raised:
            build()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("version", ["4.99.1", "5.99.0"])
def test_another_version_of_the_library_than_was_tried_is_refused(monkeypatch, data, version):
    monkeypatch.setattr("transformers.__version__", version)
    for build in (detector, lambda: check_config(read_config(CONFIG, data))):
        with pytest.raises(UserError, match=f"needs transformers .*, not {version}"):
            build()


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_rates_and_clipping_of_parameter_groups(optimizer):
    factors = "[['backbone', 0.1], ['sampling_offsets', 0.5], ['reference_points', 0.0]]"
    opts = ["SOLVER.LR_FACTORS", factors, "SOLVER.BASE_LR", 0.01, "SOLVER.OPTIMIZER", optimizer]
    cfg = read_config(CONFIG, [*opts, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3, "SOLVER.WEIGHT_DECAY", 0.0])
    model = detector()
    built = Trainer.build_optimizer(cfg, model)
    rates = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.01
        for part, factor in (("backbone", 0.001), ("sampling_offsets", 0.005), ("reference_points", 0.0)):
            if part in name:
                expected = factor
        assert rates.pop(id(parameter)) == pytest.approx(expected), name
    assert not rates
    assert isinstance(built, {"ADAMW": torch.optim.AdamW, "SGD": torch.optim.SGD}[optimizer])
    found, _ = losses(model, images())
    (1e6 * sum(found.values())).backward()
    built.step()
    norms = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*deformable_detr*.yaml")), ids=lambda path: path.stem)
def test_configs_build(path):
    cfg = read_config(path)
    assert cfg.MODEL.META_ARCHITECTURE == "ParamAPDeformableDETR"
    if "R_50" in path.stem:  # the paper's is too large for a test: only what it is built from
        cfg.MODEL.DEFORMABLE_DETR.ENC_LAYERS = cfg.MODEL.DEFORMABLE_DETR.DEC_LAYERS = 2
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    Trainer.build_lr_scheduler(cfg, optimizer)
    merge_options(cfg, cfg.PROXY.OPTS)


def test_a_score_threshold_is_warned_of_where_the_loss_is_no_classifier(caplog):
    warn_of_score_threshold.cache_clear()
    detector(score_thresh=0.0), detector(score_thresh=0.3, criterion="focal")
    assert not caplog.records
    detector(score_thresh=0.3)
    assert "MODEL.DEFORMABLE_DETR.SCORE_THRESH_TEST is 0.3" in caplog.text


def test_features_that_the_backbone_does_not_give_are_told():
    with pytest.raises(UserError, match="the backbone gives .*res2.*, and no res9"):
        detector(in_features=["res2", "res9"])
