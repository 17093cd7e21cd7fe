"""Whose fault an exception is."""

import errno

import pytest
import torch

from paramap_d2.losses import ParameterizedAPLoss, global_batch, load_loss
from paramap_d2.search.proxies.failures import cause_of
from paramap_d2.search.store import DISK, FILE, KILLED, LOSS, MEMORY, OTHER


def raised(call, *arguments, **more):
    with pytest.raises(Exception) as caught:  # noqa: PT011  all sorts
        call(*arguments, **more)
    return caught.value


def terms(**options):
    loss = ParameterizedAPLoss(load_loss("linear")["dense"].functions, **options)
    scores = torch.zeros(8, requires_grad=True)
    return loss.terms(scores, torch.tensor([1]), torch.tensor([0.5]))


@pytest.mark.parametrize(
    "error, cause",
    [
        (MemoryError(), MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), DISK),
        (FileNotFoundError("gone"), FILE),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed"), KILLED),
        (ValueError("of a user's code"), OTHER),
    ],
)
def test_the_machines(error, cause):
    assert cause_of(error) == cause


def test_what_raises_in_the_loss_is_its_own_but_a_file():
    assert cause_of(raised(ParameterizedAPLoss, {})) == LOSS
    assert cause_of(raised(load_loss, "nowhere.json")) == OTHER


def test_a_process_that_does_not_answer_is_not_the_losss(monkeypatch):
    def lost(*_):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:20814")

    assert terms(global_batch=True)
    monkeypatch.setattr(global_batch, "several_processes", lambda: True)
    monkeypatch.setattr(global_batch.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(global_batch.dist, "all_gather", lost)
    assert cause_of(raised(terms, global_batch=True)) == OTHER
