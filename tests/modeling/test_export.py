"""Trained detectors leave Python by the ways that Detectron2 has for its own: TorchScript, ONNX, torch.compile."""

import io

import pytest
import torch
from detectors import config
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.env import seed_all_rng
from detr import detector as deformable_detr
from detr import spread
from torch import Tensor

RESULTS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
PROPOSALS = {"proposal_boxes": Boxes, "objectness_logits": Tensor}
MASKS = {"pred_masks": Tensor}
STOCK = {"ParamAPRetinaNet": "RetinaNet", "ParamAPRPN": "RPN", "ParamAPROIHeads": "StandardROIHeads"}

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and tracing warns of every size


def detector(kind, *opts, stock=False):
    """With weights that no two anchors score alike by, and no loss that could be read."""
    cfg = config(kind, "MODEL.PARAM_AP.LOSS", "gone.json", *opts)
    for section, key in (
        (cfg.MODEL, "META_ARCHITECTURE"),
        (cfg.MODEL.PROPOSAL_GENERATOR, "NAME"),
        (cfg.MODEL.ROI_HEADS, "NAME"),
    ):
        if stock:
            section[key] = STOCK.get(section[key], section[key])
    seed_all_rng(1)
    return spread(build_model(cfg), noise=0.02).eval()


def images():
    return [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255 for size in ((64, 96), (96, 72))]


def detections(model, inputs):
    """As they come from the network, in its input's size."""
    if hasattr(model, "roi_heads"):
        return model.inference(inputs, do_postprocess=False)
    return [x["instances"] if isinstance(x, dict) else x for x in model.forward(inputs)]


def traced(model, image):
    adapter = TracingAdapter(
        model, [{"image": image}], lambda model, x: [{"instances": i} for i in detections(model, x)]
    )
    with torch.no_grad():
        return adapter, torch.jit.trace(adapter, (image,), check_trace=False)


def same(found, wanted):
    """The same boxes with the same scores, in whichever order those of nearly equal scores come."""
    rows = []
    for x in (found, wanted):
        boxes = x.pred_boxes if isinstance(x.pred_boxes, Tensor) else x.pred_boxes.tensor
        boxes = Boxes(boxes.clone())
        boxes.clip(wanted.image_size)  # scripted and traced detectors leave it to who calls them
        row = torch.cat([boxes.tensor, 100 * x.scores[:, None], 100.0 * x.pred_classes[:, None]], dim=1)
        rows.append(row[boxes.nonempty()])
    assert len(rows[0]) == len(rows[1]) > 10
    distance = torch.cdist(*rows, p=float("inf"))
    assert distance.amin(0).max() < 0.02 and distance.amin(1).max() < 0.02


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "mask_rcnn"])
def test_scripted(kind):
    model = detector(kind)
    fields = RESULTS if kind == "retinanet" else {**PROPOSALS, **RESULTS, **MASKS}
    scripted = scripting_with_instances(model, fields)
    for image in images():
        with torch.no_grad():
            (wanted,) = detections(model, [{"image": image}])
            (found,) = detections(scripted, [{"image": image}])
        same(found, wanted)


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_traced_with_an_image_of_one_size_and_run_with_another(kind):
    model = detector(kind)
    adapter, trace = traced(model, images()[0])
    for image in images():
        with torch.no_grad():
            same(adapter.outputs_schema(trace(image))[0]["instances"], detections(model, [{"image": image}])[0])


def test_deformable_detr_traced_is_for_images_of_the_same_size():
    model = spread(deformable_detr()).eval()
    adapter, trace = traced(model, images()[0])
    other = images()[0].flip(2)  # the library takes the sizes of its feature maps for constants
    with torch.no_grad():
        same(adapter.outputs_schema(trace(other))[0]["instances"], detections(model, [{"image": other}])[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_onnx(kind):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, (image, _) = detector(kind), images()
    adapter = TracingAdapter(
        model, [{"image": image}], lambda model, x: [{"instances": i} for i in detections(model, x)]
    )
    adapter.eval()
    file = io.BytesIO()  # before opset 16, ONNX has not the ROIAlign of these detectors
    with torch.no_grad():
        torch.onnx.export(adapter, (image,), file, opset_version=16, dynamo=False)
        (wanted,) = detections(model, [{"image": image}])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    same(adapter.outputs_schema([torch.from_numpy(x) for x in outputs])[0]["instances"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_compiled_breaks_the_graph_at_most_once_more_than_stock(kind):
    inputs = [{"image": images()[0]}]
    few = "['p6']" if kind == "retinanet" else "['p5']"  # levels: each costs seconds
    opts = [x for key in ("RETINANET", "RPN", "ROI_HEADS") for x in (f"MODEL.{key}.IN_FEATURES", few)]
    opts += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]"]
    breaks = []
    for stock in (True, False):
        torch._dynamo.reset()
        breaks.append(torch._dynamo.explain(detector(kind, *opts, stock=stock))(inputs).graph_break_count)
    torch._dynamo.reset()
    assert 0 < breaks[1] <= breaks[0] + 1
