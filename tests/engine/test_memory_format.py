import copy
import pickle

import pytest
import torch
from detectors import CONFIGS, batch, build, losses
from detectron2.modeling import build_model
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from paramap_d2.config import read_config
from paramap_d2.config.lazy import read_lazy_config
from paramap_d2.engine import Trainer
from paramap_d2.engine.cpu_speed import MANY_WEIGHTS, channels_last_on_cpu
from paramap_d2.engine.lazy import build_model as build_lazy_model
from paramap_d2.modeling.timm_backbone import TimmBackbone

LAST = torch.channels_last


def resnet():
    stem = BasicStem(norm="BN")
    stages = [[BasicBlock(64, 64, norm="BN")], [BasicBlock(64, 256, stride=2, norm="BN")]]
    return ResNet(stem, stages, num_classes=None, out_features=["res2", "res3"])


def formats(model):
    """Whether each stage was given its maps channels last, filled when the model is called."""
    seen = {}
    for module in model.modules():
        if isinstance(module, ResNet):
            for name in ("stem", *module.stage_names):
                getattr(module, name).register_forward_hook(
                    lambda stage, inputs, _, name=name: seen.__setitem__(
                        name, inputs[0].is_contiguous(memory_format=LAST)
                    )
                )
    return seen


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_large_maps_lie_channels_last_and_small_ones_do_not():
    model = channels_last_on_cpu(resnet())
    weights = sum(p.numel() for p in model.res3.parameters())
    seen = formats(model)
    for side, last in ((64, True), (16, False)):  # of res3's input
        model(torch.randn(1, 3, 4 * side, 4 * side))
        assert seen == {"stem": True, "res2": True, "res3": last}
        assert (weights <= MANY_WEIGHTS * 64 * side**2) == last


def test_a_timm_backbone_holds_all_its_maps_channels_last_and_finds_the_same(threads):
    torch.manual_seed(0)
    plain = TimmBackbone("tf_efficientnet_lite0", out_features=("res3", "res5")).double()
    other = channels_last_on_cpu(copy.deepcopy(plain))
    x, found = torch.randn(2, 3, 64, 64, dtype=torch.float64), []
    for model in (plain, other):
        maps = model(x)
        sum(m.square().mean() for m in maps.values()).backward()
        found.append((maps, [p.grad for p in model.parameters()]))
        assert all(m.is_contiguous(memory_format=LAST) == (model is other) for m in maps.values())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("images", [4, 16])
def test_pointwise_convolutions_of_a_timm_backbone_are_never_a_matrix_product(images, threads):
    torch.manual_seed(0)
    plain = TimmBackbone("tf_efficientnet_lite0", out_features=("res3", "res5"))
    x, found = torch.randn(images, 3, 128, 96), []
    for model in (plain.eval(), channels_last_on_cpu(copy.deepcopy(plain))):
        with torch.profiler.profile() as profile:
            maps = model(x)
            sum(m.mean() for m in maps.values()).backward()
        found.append((maps, any("slow_conv" in event.key for event in profile.key_averages())))
    assert [slow for _, slow in found] == [threads == 1 and images < 16, False]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)


def test_maps_elsewhere_than_on_a_cpu_are_left_alone():
    model = channels_last_on_cpu(resnet()).to("meta")
    seen = formats(model)
    model(torch.empty(1, 3, 256, 256, device="meta"))
    assert seen == {"stem": False, "res2": False, "res3": False}


@pytest.mark.parametrize("build_one", [resnet, lambda: TimmBackbone("tf_efficientnet_lite0", out_features=("res3",))])
def test_the_model_can_still_be_copied_and_pickled(build_one):
    model = channels_last_on_cpu(build_one()).eval()
    x = torch.randn(1, 3, 64, 64)
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in others:
        torch.testing.assert_close(other(x)["res3"], model(x)["res3"])
    assert model.state_dict().keys() == build_one().state_dict().keys()
    for p in model.parameters():
        p.data.zero_()
    assert all(other(x)["res3"].abs().max() > 0 for other in others)  # by weights of their own


@pytest.mark.parametrize("detector", ["retinanet", "fcos"])
def test_losses_and_gradients_are_the_same_up_to_rounding(detector):
    plain = build(detector).double()
    other = channels_last_on_cpu(copy.deepcopy(plain))
    found = []
    for model in (plain, other):
        seen = formats(model)
        torch.manual_seed(0)
        terms, _ = losses(model, batch(detector))
        sum(terms.values()).backward()
        found.append((terms, [p.grad for p in model.parameters()], seen))
    torch.testing.assert_close(found[1][:2], found[0][:2], rtol=1e-6, atol=1e-9)
    assert not any(found[0][2].values()) and found[1][2]["stem"]


@pytest.mark.parametrize("way", ["yaml", "lazy"])
def test_trainings_have_it(way):
    if way == "yaml":
        cfg = read_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml", ["MODEL.DEVICE", "cpu"])
        model, plain = Trainer.build_model(cfg), build_model(cfg)
        assert not any(module._forward_pre_hooks for module in plain.modules())
    else:
        model = build_lazy_model(
            read_lazy_config(CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py", ["train.device=cpu"])
        )
    seen = formats(model)
    model.eval()(batch())
    assert seen["stem"] and seen["res2"]
