import copy

import pytest
import torch

from paramap_d2.config import read_config
from paramap_d2.data.augmentation import SSDMapper
from paramap_d2.engine import Trainer
from paramap_d2.engine.cpu_speed import fused_on_cpu
from paramap_d2.engine.solver import clipped_adamw
from paramap_d2.model_zoo import get_config_file


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: clipped_adamw(p, 0.1, lr=0.1),
    ],
)
def test_fused_steps_are_those_of_the_default(build):
    torch.manual_seed(0)
    plain = torch.nn.Linear(30, 20)
    fused = copy.deepcopy(plain)
    optimizers = build(plain.parameters()), fused_on_cpu(build(fused.parameters()))
    assert [group["fused"] for o in optimizers for group in o.param_groups] == [None, True]
    for step in range(20):
        x = torch.randn(8, 30)
        for model, optimizer in zip((plain, fused), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(fused.weight, plain.weight, rtol=1e-4, atol=1e-6, msg=f"step {step}")


@pytest.mark.parametrize("of_biases", [1.0, 2.0])
def test_factors_on_rates_count_for_biases_too(of_biases):
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"))
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.LR_FACTORS = 0.5, of_biases, [["head.", 0.1]]
    model = Trainer.build_model(cfg)
    rates = {p: group["lr"] for group in Trainer.build_optimizer(cfg, model).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = (0.1 if "head." in name else 1) * (of_biases if name.endswith("bias") else 1)
            assert rates[parameter] == pytest.approx(0.5 * factor), name


def test_other_optimizers_and_devices_are_left_alone():
    optimizer = fused_on_cpu(torch.optim.Adadelta([torch.nn.Parameter(torch.zeros(2))]))
    assert "fused" not in optimizer.param_groups[0]
    elsewhere = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, device="meta"))])
    assert fused_on_cpu(elsewhere).param_groups[0]["fused"] is None


@pytest.mark.parametrize("ssd", [False, True])
def test_the_trainer_augments_as_its_config_says(monkeypatch, ssd):
    monkeypatch.setattr("paramap_d2.engine.trainer.build_detection_train_loader", lambda cfg, mapper: mapper)
    cfg = read_config(get_config_file("shapes_retinanet_R_18_FPN.yaml"), ["INPUT.SSD_AUGMENTATION", ssd])
    assert isinstance(Trainer.build_train_loader(cfg), SSDMapper) == ssd
