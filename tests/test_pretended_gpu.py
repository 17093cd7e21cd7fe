"""The device that stands for a GPU refuses what a GPU refuses, and computes."""

import pytest
import torch

from tests.pretended_gpu import NAME, PretendedGPU


@pytest.fixture(autouse=True)
def pretended():
    with PretendedGPU() as gpu:
        yield gpu


MIXED = {
    "add": lambda here, there: here + there,
    "in place": lambda here, there: here.add_(there),
    "onto the CPU": lambda here, there: there.add_(here),
    "cat": lambda here, there: torch.cat([here, there]),
    "stack of numbers": lambda here, there: torch.stack([here.sum(), there.sum()]),
    "matmul": lambda here, there: here @ there,
    "index of the CPU by it": lambda here, there: there[here > 0],
    "values from the CPU": lambda here, there: here.__setitem__(slice(0, 2), 0) or here.index_put_((here > 0,), there),
    "scatter": lambda here, there: here.scatter_(0, torch.tensor([0, 1, 2]), here),
    "where": lambda here, there: torch.where(here > 0, here, there),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_two_devices_do_not_mix(operation):
    with pytest.raises(RuntimeError, match=f"tensors on {NAME}:0 and on cpu"):
        operation(torch.ones(3, device=NAME), torch.ones(3))


def test_nor_does_numpy():
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(3, device=NAME).numpy()


def test_what_a_gpu_allows():
    here = torch.tensor([1.0, 2.0, 3.0], device=NAME)
    assert (here * torch.tensor(2.0)).tolist() == [2, 4, 6]  # a number from the CPU
    assert here[torch.tensor([2, 0])].tolist() == [3, 1]  # an index from there
    here[1:].copy_(torch.tensor([5.0, 6.0]))
    assert here.cpu().numpy().tolist() == [1, 5, 6] and here.sum().item() == 12


def test_a_module_learns_there_as_on_the_cpu():
    learnt = {}
    for device in ("cpu", NAME):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).to(device)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
        images = torch.randn(2, 3, 8, 8).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            module(images).square().mean().backward()
            optimizer.step()
        assert all(x.device.type == device for x in (*module.state_dict().values(), module[0].weight.grad))
        learnt[device] = [x.cpu() for x in module.state_dict().values()]
    torch.testing.assert_close(learnt[NAME], learnt["cpu"])


WAITS = {
    "add": (lambda x: x + x, 0),
    "item": (lambda x: x.sum().item(), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: (x + 1).cpu() + 1, 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 0], 1),
    "index": (lambda x: x[torch.tensor([0, 2], device=NAME)], 0),
    "any": (lambda x: bool((x > 0).any()), 1),
}


@pytest.mark.parametrize(("operation", "waits"), WAITS.values(), ids=WAITS)
def test_it_counts_what_a_cpu_must_wait_for(operation, waits, pretended):
    x = torch.ones(3, device=NAME)
    pretended.waits = 0
    operation(x)
    assert pretended.waits == waits


def test_nothing_of_it_is_left(pretended):
    assert not torch.accelerator.is_available() or torch.accelerator.current_accelerator().type != NAME
