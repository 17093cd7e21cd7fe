"""Deformable DETR with the loss and with its own, on a small Detectron2 backbone and images of `shapes`."""

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
from detectors import CONFIGS, ap50, batch, losses, overfit, without_objects
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from omegaconf import OmegaConf

from paramap_d2.config import ConfigError, check_config, detector_heads, merge_options, read_config
from paramap_d2.engine import Trainer
from paramap_d2.errors import UserError
from paramap_d2.losses import LossFileError, box_quality
from paramap_d2.modeling import ParamAPDeformableDETR

CONFIG = CONFIGS / "shapes_deformable_detr_R_18.yaml"
FUNCTIONS = {
    "rank_numerator": [[0, 0], [0.4, 0.1], [0.7, 0.6], [1, 1]],
    "sample_quality": [[0, 0], [0.3, 0.5], [1, 1]],
    "positive_weight": [[0, 0], [0.5, 0.7], [1, 1]],
    "positive_quality": [[0, 0], [0.6, 0.2], [1, 1]],
    "rank_denominator": [[0, 0], [0.5, 0.6], [1, 1]],
}


def backbone(norm="BN"):
    stages = [
        ResNet.make_stage(BasicBlock, 1, stride_per_block=[stride], in_channels=before, out_channels=after, norm=norm)
        for before, after, stride in ((16, 32, 1), (32, 64, 2), (64, 128, 2))
    ]
    return ResNet(BasicStem(3, 16, norm=norm), stages, out_features=["res2", "res3", "res4"])


OPTIONS = {
    "in_features": ["res3", "res4"],
    "num_classes": 3,
    "pixel_mean": [127.5] * 3,
    "pixel_std": [64.0] * 3,
    "param_ap": {"loss": "square"},
    "num_feature_levels": 3,
    "num_queries": 20,
    "hidden_dim": 64,
    "num_heads": 4,
    "dim_feedforward": 64,
    "enc_layers": 1,
    "dec_layers": 2,
    "dropout": 0.0,
}


def detector(seed=1, **options):
    seed_all_rng(seed)
    return ParamAPDeformableDETR(**{"backbone": backbone(), **OPTIONS, **options})


def spread(model, seed=3, noise=0.05):
    """Move all weights from where they start, so that no two queries or layers predict the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model


def image(height, width, boxes, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "instances": instances, "height": height, "width": width}


def images():
    """Two sizes, so that there is padding on both; three objects, one and none."""
    return [
        image(64, 48, [[2, 3, 20, 30], [10, 10, 44, 60], [30, 5, 40, 12]], [0, 2, 2], seed=1),
        image(40, 80, [[20, 8, 70, 35]], [1], seed=2),
        image(48, 48, [], [], seed=3),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_overfits_two_images(criterion):
    model, inputs = detector(criterion=criterion, num_feature_levels=2, dim_feedforward=128), batch(count=2)
    assert ap50(model, inputs) < 0.5
    overfit(model, inputs, iterations=150)
    assert ap50(model, inputs) > 0.9


def pairs_of_reference(logits, boxes, targets):
    """Deformable DETR's matching costs written out, query by query and object by object.

    Args:
        logits: (Q, C).
        boxes: (Q, 4) as (center x, center y, width, height).
        targets: (class, (4,) box in the same form) pairs.

    Returns:
        (query, target) pairs.
    """
    from scipy.optimize import linear_sum_assignment

    def corners(box):
        x, y, w, h = (float(v) for v in box)
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2

    def giou(a, b):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners(a), corners(b)
        inner = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
        union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        return inner / union - (hull - union) / hull

    costs = np.zeros((len(logits), len(targets)))
    for q in range(len(logits)):
        for t, (label, box) in enumerate(targets):
            p = 1 / (1 + math.exp(-float(logits[q, label])))
            focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
            distance = sum(abs(float(a) - float(b)) for a, b in zip(boxes[q], box, strict=True))
            costs[q, t] = 2 * focal + 5 * distance - 2 * giou(boxes[q], box)
    return list(zip(*(side.tolist() for side in linear_sum_assignment(costs)), strict=True))


@pytest.mark.parametrize("block_gradient", [True, False])
@pytest.mark.parametrize("quality", ["giou", "l1"])
def test_loss_and_gradients_are_those_of_the_slow_reference(tmp_path, block_gradient, quality):
    path = tmp_path / "loss.json"
    path.write_text(json.dumps({"format": 1, "heads": {"detr": {"functions": FUNCTIONS, "grad_scale": 2.5}}}))
    model = detector(param_ap={"loss": str(path), "block_gradient": block_gradient, "quality": quality})
    inputs = images()
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 3, 20, 3, generator=generator)
    boxes = torch.rand(2, 3, 20, 4, generator=generator) * torch.tensor([0.4, 0.4, 0.3, 0.3]) + 0.2
    logits.requires_grad_()
    boxes.requires_grad_()
    found = model.losses(logits, boxes, [x["instances"] for x in inputs])
    assert list(found) == ["loss_cls_0", "loss_box_reg_0", "loss_cls", "loss_box_reg"]
    sum(found.values()).backward()

    for layer, suffix in enumerate(["_0", ""]):
        targets, quality_of, samples = [], {}, 20 * 3
        leaf = boxes.detach()[layer].clone().requires_grad_()
        scores = logits[layer].flatten().tolist()
        flags = [0] * len(scores)
        for i, x in enumerate(inputs):
            height, width = x["image"].shape[1:]
            scale = torch.tensor([width, height, width, height])
            x0, y0, x1, y1 = (x["instances"].gt_boxes.tensor / scale).unbind(1)
            targets = list(
                zip(
                    x["instances"].gt_classes.tolist(),
                    torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1).tolist(),
                    strict=True,
                )
            )
            for query, target in pairs_of_reference(logits[layer, i].detach(), boxes[layer, i].detach(), targets):
                sample = i * samples + query * 3 + targets[target][0]
                cx, cy, w, h = leaf[i, query].unbind()
                predicted = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * scale
                truth = x["instances"].gt_boxes.tensor[target]
                quality_of[sample] = box_quality(predicted[None], truth[None], quality)[0]
                flags[sample] = 1
        assert sum(flags) == 4
        expected = reference.reference(
            scores,
            [float(quality_of[j].detach()) if j in quality_of else 0.0 for j in range(len(scores))],
            flags,
            FUNCTIONS,
            block_gradient=block_gradient,
            grad_scale=2.5,
        )
        total = found[f"loss_cls{suffix}"] + found[f"loss_box_reg{suffix}"]
        assert total.item() == pytest.approx(expected.loss, rel=1e-5)
        torch.testing.assert_close(
            logits.grad[layer].flatten(), torch.tensor(expected.grad_scores), rtol=1e-4, atol=1e-6
        )
        sum(expected.grad_quality[j] * q for j, q in quality_of.items()).backward()
        assert leaf.grad.abs().sum() > 0
        torch.testing.assert_close(boxes.grad[layer], leaf.grad, rtol=1e-4, atol=1e-6)


class LibraryBackbone(Backbone):
    """The library's own ResNet in the place of a Detectron2 backbone."""

    def __init__(self, resnet):
        super().__init__()
        self.resnet = resnet

    def forward(self, x):
        return dict(zip(["res2", "res3"], self.resnet(x).feature_maps, strict=True))

    def output_shape(self):
        return {name: ShapeSpec(channels=c) for name, c in zip(["res2", "res3"], (32, 64), strict=True)}


def library_model():
    """The library's model, backbone and loss function with nothing of this project in it."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    resnet = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2"],
    )
    seed_all_rng(4)
    config = DeformableDetrConfig(
        backbone_config=resnet,
        num_labels=3,
        num_feature_levels=3,
        num_queries=20,
        d_model=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_layers=1,
        decoder_layers=2,
        dropout=0.0,
        with_box_refine=True,
        auxiliary_loss=True,
    )
    return spread(DeformableDetrForObjectDetection(config), noise=0.1)


def test_with_the_baseline_loss_outputs_and_loss_are_the_librarys():
    from transformers import DeformableDetrImageProcessor

    library = library_model()
    ours = detector(
        backbone=LibraryBackbone(library.model.backbone.model),
        in_features=["res2", "res3"],
        criterion="focal",
        class_weight=1.0,
    )
    weights = {name: w for name, w in library.state_dict().items() if "backbone" not in name}
    missing, unexpected = ours.detr.load_state_dict(weights, strict=False)
    assert not unexpected and all("backbone" in name for name in missing)

    inputs = images()
    height, width = 64, 80
    pixels, mask = torch.zeros(3, 3, height, width), torch.zeros(3, height, width, dtype=torch.long)
    labels = []
    for i, x in enumerate(inputs):
        h, w = x["image"].shape[1:]
        pixels[i, :, :h, :w] = (x["image"].float() - 127.5) / 64
        mask[i, :h, :w] = 1
        x0, y0, x1, y1 = x["instances"].gt_boxes.tensor.unbind(1)
        boxes = torch.stack([(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h], dim=1)
        labels.append({"class_labels": x["instances"].gt_classes, "boxes": boxes})

    library.train(), ours.train()
    expected, (found, _) = library(pixels, mask, labels=labels), losses(ours, inputs)
    assert sum(found.values()).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    terms = {"loss_cls": ("loss_ce", 1), "loss_box_reg": ("loss_bbox", 5), "loss_giou": ("loss_giou", 2)}
    assert len(found) == 6
    for name, (key, weight) in terms.items():
        for suffix in ("_0", ""):
            assert found[name + suffix].item() == pytest.approx(
                weight * expected.loss_dict[key + suffix].item(), rel=1e-5
            )
    expected.loss.backward()
    gradient = library.class_embed[0].weight.grad
    sum(found.values()).backward()
    # The library has one class head for all layers, this detector one for each.
    torch.testing.assert_close(sum(head.weight.grad for head in ours.detr.class_embed), gradient)

    library.eval(), ours.eval()
    with torch.no_grad():
        raw, detections = library(pixels, mask), ours(inputs)
    sizes = [tuple(x["image"].shape[1:]) for x in inputs]
    processed = DeformableDetrImageProcessor().post_process_object_detection(
        raw, threshold=0.0, target_sizes=sizes, top_k=60
    )
    for output, wanted, (h, w) in zip(detections, processed, sizes, strict=True):
        wanted_boxes = Boxes(wanted["boxes"])
        wanted_boxes.clip((h, w))
        kept = wanted_boxes.nonempty()
        assert len(output["instances"]) == kept.sum() > 50
        torch.testing.assert_close(output["instances"].scores, wanted["scores"][kept])
        torch.testing.assert_close(output["instances"].pred_boxes.tensor, wanted_boxes.tensor[kept])
        assert output["instances"].pred_classes.tolist() == wanted["labels"][kept].tolist()


@pytest.mark.parametrize("box_refine", [True, False])
@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_gradients_reach_every_parameter(criterion, box_refine):
    model = spread(detector(criterion=criterion, box_refine=box_refine))
    found, _ = losses(model, images())
    sum(found.values()).backward()
    without = []
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.grad.abs().max() < 1e-7:
            without.append(name)
    # Softmax over the keys of self-attention: the same added to all changes nothing.
    assert without == [f"detr.model.decoder.layers.{layer}.self_attn.k_proj.bias" for layer in range(2)]


def test_every_layer_has_heads_of_its_own_with_refinement_and_shares_them_without():
    for box_refine, count in ((True, 3), (False, 1)):
        model = detector(box_refine=box_refine, dec_layers=3)
        for heads in (model.detr.class_embed, model.detr.bbox_embed):
            assert len({id(next(head.parameters())) for head in heads}) == count
        assert model.detr.bbox_embed[0].layers[-1].bias.tolist() == [0, 0, -2, -2]


def test_queries_start_all_over_the_image():
    model = detector(num_queries=200).eval()
    with torch.no_grad():
        output = model([{"image": image(64, 64, [], [])["image"]}])[0]["instances"]
    centres = output.pred_boxes.get_centers() / 64
    assert (centres.amin(0) < 0.3).all() and (centres.amax(0) > 0.7).all()
    assert output.scores.mean().item() == pytest.approx(0.01, abs=0.02)


@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_a_batch_without_any_object(criterion):
    model = spread(detector(criterion=criterion))
    found, storage = losses(model, [without_objects(x) for x in images()])
    for name, loss in found.items():
        assert loss.isfinite(), name
        assert criterion == "focal" and "cls" in name or loss.item() == 0, name
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    if criterion == "param_ap":
        assert storage.latest()["param_ap/detr_positives"][0] == 0


def test_an_image_without_objects_takes_part_with_its_negatives():
    model = spread(detector()).eval()
    *some, empty = images()
    with torch.no_grad():
        logits, boxes = (torch.randn(2, 3, 20, 3), torch.rand(2, 3, 20, 4) / 2 + 0.2)
        instances = [x["instances"] for x in (*some, empty)]
        three = model.losses(logits, boxes, instances)
        logits[:, 2] = -100  # the third image's queries sink below all others
        sunk = model.losses(logits, boxes, instances)
        two = model.losses(logits[:, :2], boxes[:, :2], instances[:2])
    assert three["loss_cls"] > sunk["loss_cls"]
    assert sunk["loss_cls"].item() == pytest.approx(two["loss_cls"].item(), rel=1e-6)
    assert three["loss_box_reg"].item() == pytest.approx(two["loss_box_reg"].item(), rel=1e-6)


def test_more_objects_than_queries():
    model = detector(num_queries=2)
    found, storage = losses(model, images()[:1])
    assert storage.latest()["param_ap/detr_positives"][0] == 2
    assert all(loss.isfinite() for loss in found.values())


def test_positives_and_quality_of_every_layer_are_logged():
    _, storage = losses(detector(), images())
    latest = storage.latest()
    for name in ("detr_0", "detr"):
        assert latest[f"param_ap/{name}_positives"][0] == 4
        assert 0 < latest[f"param_ap/{name}_quality"][0] < 1


@pytest.mark.parametrize("criterion", ["param_ap", "focal"])
def test_automatic_mixed_precision(criterion):
    model = spread(detector(criterion=criterion), noise=0.01)
    precise, _ = losses(model, images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = losses(model, images())
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(precise[name].item(), rel=0.1), name
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
    with torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = model.detr.bbox_embed[0](torch.randn(2, 64))
        in_decoder = model.detr.model.decoder.bbox_embed[0](torch.randn(2, 64))
        points = model.detr.model.reference_points(torch.randn(2, 64))
    assert boxes.dtype == in_decoder.dtype == points.dtype == torch.float32


def detections(model, inputs):
    model.eval()
    with torch.no_grad():
        return [x["instances"] for x in model(inputs)]


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
    options = {**OPTIONS, "in_features": ["res2"], "param_ap": {"loss": "linear", "top_k": 30}}
    lazy = LazyCall(ParamAPDeformableDETR)(backbone=net, **options)
    model = instantiate(OmegaConf.create(OmegaConf.to_container(lazy), flags={"allow_objects": True}))
    found, _ = losses(model, images())
    assert all(loss.isfinite() for loss in found.values())
    assert [loss.ap_loss.top_k for loss in model.box_ap_losses] == [30, 30]


def test_a_diverged_model_says_so():
    model = detector()
    with torch.no_grad():
        model.detr.model.level_embed.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        losses(model, images())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"criterion": "ap"}, "criterion must be one of param_ap, focal"),
        ({"hidden_dim": 48}, "hidden_dim must be a multiple of 32"),
        ({"num_heads": 3}, "hidden_dim must be a multiple of 32 and of num_heads = 3"),
        ({"dec_layers": 1}, "dec_layers must be at least 2"),
        ({"num_feature_levels": 1}, "num_feature_levels must be at least"),
        ({"param_ap": None}, "needs param_ap"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        detector(**options)


@pytest.fixture
def data(tmp_path, monkeypatch):
    from detectron2.data import MetadataCatalog

    monkeypatch.setattr("paramap_d2.data.check_datasets", lambda names: None)
    MetadataCatalog.get("detr_toy").set(thing_classes=["circle", "square", "triangle"])
    yield ["DATASETS.TRAIN", "('detr_toy',)", "DATASETS.TEST", "()"]
    MetadataCatalog.remove("detr_toy")


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
        with pytest.raises(UserError, match=r"pip install -e '\.\[detr\]'") as raised:
            build()
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_library_is_not_imported_before_the_detector_is_built():
    code = (
        "import sys; sys.modules['transformers'] = None; sys.modules['scipy'] = None\n"
        "import paramap_d2.modeling, paramap_d2.engine.trainer\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "assert 'ParamAPDeformableDETR' in META_ARCH_REGISTRY and 'ParamAPRetinaNet' in META_ARCH_REGISTRY\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
