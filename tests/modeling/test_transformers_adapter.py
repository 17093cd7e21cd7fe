"""What is made of the library's Deformable DETR: its outputs and losses, other heads and initial weights."""

import subprocess
import sys

import pytest
import torch
from detectors import losses
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes
from detectron2.utils.env import seed_all_rng
from detr import detector, image, images, spread

from paramap_d2.modeling import FocalCriterion


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


def test_with_the_baseline_criterion_outputs_and_loss_are_the_librarys():
    from transformers import DeformableDetrImageProcessor

    library = library_model()
    ours = detector(
        backbone=LibraryBackbone(library.model.backbone.model),
        in_features=["res2", "res3"],
        criterion=FocalCriterion(3, class_weight=1.0),
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


@pytest.mark.slow
def test_the_library_is_not_imported_before_the_detector_is_built():
    code = (
        "import sys; sys.modules['transformers'] = None; sys.modules['scipy'] = None\n"
        "import paramap_d2.modeling, paramap_d2.engine.trainer\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "assert 'ParamAPDeformableDETR' in META_ARCH_REGISTRY and 'ParamAPRetinaNet' in META_ARCH_REGISTRY\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
