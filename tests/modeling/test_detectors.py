"""Every detector with the loss, on real structure: Detectron2 models, images of `shapes`."""

import copy

import numpy as np
import pytest
import reference
import torch
from detectors import DETECTORS, ap50, batch, build, config, losses, overfit, without_objects
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from paramap_d2.losses import SIBLINGS, LossFileError, box_quality, load_loss, save_loss
from paramap_d2.modeling import BoxAPLoss
from paramap_d2.modeling.box_ap_loss import warn_of_score_threshold
from paramap_d2.modeling.roi_heads import ParamAPFastRCNNOutputLayers

KINDS = sorted(DETECTORS)
ONE_STAGE = ["retinanet", "fcos"]


@pytest.mark.slow
@pytest.mark.parametrize("detector", KINDS)
def test_overfits_a_handful_of_images(detector):
    model, inputs = build(detector), batch(detector, 2)
    assert ap50(model, inputs) < 0.5
    overfit(model, inputs, iterations=90 if detector == "fcos" else 60)
    assert ap50(model, inputs) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("loss", SIBLINGS)
@pytest.mark.parametrize(
    "detector, iterations, lr, least",
    [("retinanet", 15, 1e-3, 0.7), ("fcos", 40, 2e-3, 0.4), ("faster_rcnn", 20, 1e-3, 0.8)],
)
def test_overfits_an_image_with_the_losses_without_functions(detector, iterations, lr, least, loss):
    model, inputs = build(detector, "MODEL.PARAM_AP.LOSS", loss), batch(detector, 1)
    assert ap50(model, inputs) < 0.1
    overfit(model, inputs, iterations, lr)
    assert ap50(model, inputs) > least


@pytest.mark.parametrize("detector", ["cascade_rcnn", "mask_rcnn"])
def test_the_losses_without_functions_reach_every_parameter_and_add_none(detector):
    model, inputs = build(detector, "MODEL.PARAM_AP.LOSS", "rank-sort"), batch(detector, 1)
    found, storage = losses(model, inputs)
    sum(found.values()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters() if p.requires_grad)
    assert model.state_dict().keys() == build(detector).state_dict().keys()
    # The self-balance of each loss: the boxes' term has the value of the ranking term.
    assert found["loss_rpn_cls"].item() == pytest.approx(found["loss_rpn_loc"].item()) != 0
    assert all(0 < value <= 1 for name, (value, _) in storage.latest().items() if name.endswith("_quality"))


def _record(monkeypatch):
    """Keep what every loss is called with and gives."""
    calls, call = [], BoxAPLoss.__call__

    def recorded(self, *args):
        terms = call(self, *args)
        calls.append((self, args, terms))
        return terms

    monkeypatch.setattr(BoxAPLoss, "__call__", recorded)
    return calls


@pytest.mark.parametrize("detector", KINDS)
def test_loss_is_that_of_the_slow_reference(detector, monkeypatch):
    model = build(detector, "INPUT.MIN_SIZE_TRAIN", "(64,)")
    inputs = batch(detector, 2)
    calls = _record(monkeypatch)
    found, _ = losses(model, inputs)
    stages = {"cascade_rcnn": 4, "retinanet": 1, "fcos": 1}.get(detector, 2)
    assert len(calls) == stages
    terms = []
    for loss, (logits, labels, boxes_of, gt_boxes), (ranking, localization) in calls:
        preset = load_loss("retinanet-coco" if loss.head == "dense" else "fasterrcnn-coco")[loss.head]
        specs = {name: f.to_json() for name, f in preset.functions.items()}
        scores, targets, quality = [], [], []
        num_classes = logits.shape[1]
        for i in range(len(labels)):
            label = int(labels[i])
            for c in range(num_classes):
                scores.append(logits[i, c].item())
                targets.append(-1 if label < 0 else int(label == c))
                own = 0.0
                if label == c:
                    box = boxes_of(torch.tensor([i]))
                    own = box_quality(box, gt_boxes[i : i + 1]).item()
                quality.append(own)
        expected = reference.reference(scores, quality, targets, specs).loss
        assert float(ranking + localization) == pytest.approx(expected, rel=1e-4)
        terms += [float(ranking), float(localization)]
    boxes = [float(v) for k, v in found.items() if "mask" not in k and "ctr" not in k]
    assert sorted(boxes) == pytest.approx(sorted(terms))


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize("case", ["objects", "an image without objects", "no objects", "one image"])
def test_gradients_reach_every_parameter(detector, case):
    model, inputs = build(detector), batch(detector, 2)
    if case == "an image without objects":
        inputs[0] = without_objects(inputs[0])
    elif case == "no objects":
        inputs = [without_objects(item) for item in inputs]
    elif case == "one image":
        inputs = inputs[:1]
    found, storage = losses(model, inputs)
    sum(found.values()).backward()
    # Every parameter is part of the graph (DDP waits for each); with objects, each learns.
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    if case == "no objects":
        names = [name for name in found if "mask" not in name]
        assert [float(found[name]) for name in names] == [0.0] * len(names)
    if case == "objects":
        idle = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
        assert idle == []
        logged = storage.latest()
        assert any(name.endswith("_positives") and value > 0 for name, (value, _) in logged.items())
        assert all(0 <= value <= 1 for name, (value, _) in logged.items() if name.endswith("_quality"))


@pytest.mark.parametrize("detector", KINDS)
def test_state_dict_is_the_stock_detectors(detector):
    model = build(detector)
    if detector == "fcos":
        from detectron2.modeling.meta_arch.fcos import FCOS as Stock

        stock = Stock(
            backbone=model.backbone,
            head=model.head,
            head_in_features=model.head_in_features,
            num_classes=3,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )
    else:
        cfg = config(detector)
        cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.META_ARCHITECTURE.replace("ParamAP", "")
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
        cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_HEADS.NAME.replace("ParamAPROI", "StandardROI").replace("ParamAP", "")
        stock = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    theirs = {name: value.shape for name, value in stock.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == theirs


@pytest.mark.parametrize("detector", KINDS)
def test_one_class(detector):
    model = build(detector, "MODEL.RETINANET.NUM_CLASSES", "1", "MODEL.ROI_HEADS.NUM_CLASSES", "1")
    inputs = batch(detector, 2)
    for item in inputs:
        item["instances"].gt_classes[:] = 0
    found, _ = losses(model, inputs)
    assert all(torch.isfinite(v) for v in found.values())
    model.eval()
    with torch.no_grad():
        instances = model(inputs)[0]["instances"]
    assert set(instances.pred_classes.tolist()) == {0}


@pytest.mark.parametrize("detector", KINDS)
def test_boxes_are_decoded_in_full_precision_under_autocast(detector, monkeypatch):
    model, inputs = build(detector), batch(detector, 2)
    decoded, loss = [], BoxAPLoss.__call__

    def recorded(self, logits, labels, boxes_of, gt_boxes):
        positive = (labels >= 0) & (labels < logits.shape[1])
        decoded.append(boxes_of(positive.nonzero().squeeze(1)).dtype)
        return loss(self, logits, labels, boxes_of, gt_boxes)

    monkeypatch.setattr(BoxAPLoss, "__call__", recorded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses(model, inputs)
    assert decoded and set(decoded) == {torch.float32}


@pytest.mark.parametrize("detector", KINDS)
def test_bfloat16_autocast(detector):
    model, inputs = build(detector), batch(detector, 2)
    plain, _ = losses(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = losses(model, inputs)
    sum(mixed.values()).backward()
    for name in plain:
        assert mixed[name].dtype == torch.float32 or "mask" in name or "ctr" in name
    # The proposals of two-stage detectors turn on tiny differences; the first stage does not.
    first = [name for name in plain if "rpn" in name] or [name for name in plain if "ctr" not in name]
    assert sum(float(mixed[n]) for n in first) == pytest.approx(sum(float(plain[n]) for n in first), rel=0.1)


@pytest.mark.parametrize("detector", ["faster_rcnn", "cascade_rcnn"])
def test_trains_on_all_proposals(detector, monkeypatch):
    # Stock heads would train on 16 proposals an image, and an untrained RPN proposes far more.
    model, inputs = build(detector, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"), batch(detector, 2)
    calls = _record(monkeypatch)
    losses(model, inputs)
    first_stage = next(args for loss, args, _ in calls if loss.head == "roi")
    assert len(first_stage[1]) > 4 * 2 * 16
    (rpn_labels,) = [args[1] for loss, args, _ in calls if loss.head == "rpn"]
    anchors = sum(2 * 3 * (128 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert len(rpn_labels) == anchors
    assert (rpn_labels == 1).sum() > 2 * 256 * 0.5  # background is not sampled down to 256


@pytest.mark.parametrize("detector", ["faster_rcnn", "cascade_rcnn"])
def test_no_proposal_is_left_out_but_ignored_ones(detector):
    heads = build(detector).roi_heads
    # More than the 512 of stock sampling, and more of them objects than its quarter; every seventh is ignored.
    number = torch.arange(700)
    ignored, matched = number % 7 == 6, (number % 2).masked_fill(number % 7 == 6, -1)
    kept, labels = heads._sample_proposals(number % 3, matched, torch.tensor([2, 0, 1]))
    assert kept.tolist() == number[~ignored].tolist()
    assert labels.tolist() == [(2, 0, 1)[n % 3] if n % 2 else heads.num_classes for n in kept.tolist()]
    kept, labels = heads._sample_proposals(number * 0, number * 0, torch.tensor([], dtype=torch.long))
    assert kept.tolist() == number.tolist() and set(labels.tolist()) == {heads.num_classes}


def test_rcnn_scores_are_sigmoids_one_a_class():
    model, inputs = build("faster_rcnn"), batch("faster_rcnn", 1)
    predictor = model.roi_heads.box_predictor
    features = torch.randn(5, 256)
    scores, deltas = predictor(features)
    assert scores.shape == (5, 3) and deltas.shape == (5, 12)
    probs = predictor.predict_probs((scores, deltas), [range(5)])[0]
    assert torch.equal(probs[:, :3], scores.sigmoid()) and not probs[:, 3].any()
    model.eval()
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
    # The last class is not lost.
    assert 2 in found.pred_classes.tolist()


def test_ignored_anchors_take_no_part():
    loss = build("retinanet").box_ap_loss
    logits = torch.randn(6, 2)
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(6, 1)
    labels = torch.tensor([0, 2, 2, -1, 1, -1])
    with_ignored = loss(logits, labels, lambda i: boxes[i] + 1, boxes)
    kept = labels >= 0
    without = loss(logits[kept], labels[kept], lambda i: boxes[i] + 1, boxes[kept])
    assert with_ignored.ranking == without.ranking and with_ignored.localization == without.localization


@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn"])
def test_grad_scale_option_scales_the_box_branch(detector):
    inputs = batch(detector, 1)
    grads = []
    for scale in ("1.0", "2.0"):
        model = build(detector, "MODEL.PARAM_AP.GRAD_SCALE", scale)
        found, _ = losses(model, inputs)
        sum(v for k, v in found.items() if "rpn" in k or detector == "retinanet").backward()
        head = model.proposal_generator.rpn_head.anchor_deltas if detector == "faster_rcnn" else model.head.bbox_pred
        grads.append((head.bias.grad.clone(), sum(float(v) for v in found.values())))
    assert grads[0][1] == pytest.approx(grads[1][1])
    assert torch.allclose(2 * grads[0][0], grads[1][0], rtol=1e-4)


def test_images_of_several_sizes():
    model, inputs = build("retinanet"), batch("retinanet", 2)
    small = copy.copy(inputs[1])
    small["image"] = small["image"][:, :96, :64]
    small["instances"] = type(small["instances"])((96, 64), **small["instances"].get_fields())
    small["instances"].gt_boxes = Boxes(np.clip(small["instances"].gt_boxes.tensor, 0, 64))
    found, _ = losses(model, [inputs[0], small])
    assert all(torch.isfinite(v) for v in found.values())


@pytest.mark.parametrize(
    "option, value, changes",
    [
        ("QUALITY", "iou", "loss"),
        ("QUALITY", "l1", "loss"),
        ("TOP_K", "300", "loss"),
        ("BLOCK_GRADIENT", "False", "gradient"),
    ],
)
def test_every_option_has_its_effect(option, value, changes):
    inputs = batch("retinanet", 2)
    found = []
    for opts in ([], [f"MODEL.PARAM_AP.{option}", value]):
        model = build("retinanet", *opts)
        loss = sum(losses(model, inputs)[0].values())
        loss.backward()
        found.append((loss.item(), model.head.cls_score.bias.grad.clone()))
    assert np.isfinite(found[1][0])
    assert (found[0][0] != found[1][0]) == (changes == "loss")
    assert not torch.equal(found[0][1], found[1][1])


def test_mask_heads_train_on_a_sample_of_the_proposals():
    heads = build("faster_rcnn").roi_heads
    heads.train()
    instances = Instances((64, 64))
    instances.gt_classes = torch.tensor([0] * 200 + [heads.num_classes] * 50)
    few = Instances((64, 64))
    few.gt_classes = torch.tensor([1, heads.num_classes])
    sampled = heads._sampled([instances, few])
    most = int(heads.batch_size_per_image * heads.positive_fraction)
    assert most < 200 and sampled[0].gt_classes.tolist() == [0] * most
    assert sampled[1] is few


@pytest.mark.parametrize("name", ["mask", "keypoint"])
def test_mask_and_keypoint_heads_see_samples_in_training_alone(name, monkeypatch):
    heads = build("faster_rcnn").roi_heads
    monkeypatch.setattr(heads, f"_every_{name}", lambda features, instances: instances)
    monkeypatch.setattr(heads, "_sampled", lambda instances: instances[:1])
    for heads.training, on, seen in ((True, True, [1]), (False, True, [1, 2]), (True, False, [1, 2])):
        setattr(heads, f"{name}_on", on)
        assert getattr(heads, f"_forward_{name}")({}, [1, 2]) == seen


def test_the_baselines_box_loss_has_a_weight():
    found = {}
    for weight in (1.0, 2.0):
        opts = ["MODEL.META_ARCHITECTURE", "ParamAPBaselineRetinaNet", "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", weight]
        found[weight], _ = losses(build("retinanet", *opts), batch())
    assert found[2.0]["loss_cls"] == found[1.0]["loss_cls"]
    torch.testing.assert_close(found[2.0]["loss_box_reg"], 2 * found[1.0]["loss_box_reg"])


@pytest.mark.parametrize("detector", KINDS)
def test_the_loss_is_read_when_a_detector_first_trains(detector, tmp_path):
    path = tmp_path / "loss.json"
    model, inputs = build(detector, "MODEL.PARAM_AP.LOSS", str(path)), batch(detector, 1)
    assert not [name for name in model.state_dict() if "ap_loss" in name]
    model.eval()
    with torch.no_grad():
        model(inputs)
    with pytest.raises(LossFileError, match="loss.json.*no such file"):
        losses(model, inputs)
    preset = "retinanet-coco" if detector in ONE_STAGE else "fasterrcnn-coco"
    save_loss(path, load_loss(preset))
    found, _ = losses(model, inputs)
    assert all(torch.isfinite(v) for v in found.values())


def test_a_quality_that_there_is_not_is_told_when_a_detector_is_built():
    with pytest.raises(ValueError, match="quality must be one of giou, iou, l1, not 'diou'"):
        build("retinanet", "MODEL.PARAM_AP.QUALITY", "diou")


@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn", "cascade_rcnn"])
def test_a_score_threshold_is_warned_of_once(detector, caplog):
    warn_of_score_threshold.cache_clear()
    section = "RETINANET" if detector == "retinanet" else "ROI_HEADS"
    build(detector, f"MODEL.{section}.SCORE_THRESH_TEST", "0.0")
    assert not [r for r in caplog.records if "SCORE_THRESH" in r.message]
    for _ in range(2):
        build(detector, f"MODEL.{section}.SCORE_THRESH_TEST", "0.05")
    (record,) = [r for r in caplog.records if "SCORE_THRESH" in r.message]
    assert f"MODEL.{section}.SCORE_THRESH_TEST is 0.05" in record.message and "a fifth of AP" in record.message


@pytest.mark.parametrize("agnostic", [False, True])
def test_no_proposals_give_losses_of_0(agnostic):
    """An RPN may find nothing at first. The losses are connected all the same: DDP waits for every gradient."""
    cfg = config("faster_rcnn")
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = agnostic
    predictor = ParamAPFastRCNNOutputLayers(cfg, ShapeSpec(channels=8))
    none = Instances((64, 64), proposal_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
    with EventStorage():
        losses = predictor.losses(predictor(torch.zeros(0, 8)), [none, none])
    assert {name: loss.item() for name, loss in losses.items()} == {"loss_cls": 0.0, "loss_box_reg": 0.0}
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in predictor.parameters())
    found, kept = predictor.inference(predictor(torch.zeros(0, 8)), [none, none])
    assert [len(instances) for instances in found] == [0, 0]


def test_classes_beyond_the_detectors_are_no_background():
    loss = BoxAPLoss("dense", "retinanet-coco")
    logits, boxes = torch.zeros(3, 2), torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 3)
    for labels in ([0, 2, -1], [1, 2, 2]):
        loss(logits, torch.tensor(labels), boxes.__getitem__, boxes)
    with pytest.raises(ValueError, match="an object has class 5, and the detector 2, from 0 on"):
        loss(logits, torch.tensor([0, 5, 2]), boxes.__getitem__, boxes)
