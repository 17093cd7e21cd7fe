"""Processes that rank their samples together train as one process with the whole batch. Every case of a number of
processes runs in one spawn; each process gets a part of one batch and compares with the whole of it."""

import math

import pytest
import torch
from cases import SEARCHED, built
from ranks import check_in_ranks
from torch import distributed as dist

from paramap_d2.losses import FUNCTION_NAMES, SIBLINGS, ParameterizedAPLoss

KINDS = {"exact": SEARCHED, "pairwise": dict.fromkeys(FUNCTION_NAMES, "sigmoid")}


def whole_batch(case, sizes, seed=0):
    """Scores, qualities, targets of all processes, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    scores = torch.randn(n, generator=generator, dtype=torch.float64) * 2
    targets = (torch.rand(n, generator=generator) < 0.2).long()
    quality = torch.rand(n, generator=generator, dtype=torch.float64) * (targets == 1)
    first = torch.arange(n) < sizes[0]
    if case == "a process without positives":
        targets[first], quality[first] = 0, 0
    elif case == "no positives anywhere":
        targets[:], quality[:] = 0, 0
    elif case == "ignored samples":
        targets[(torch.rand(n, generator=generator) < 0.2) & (targets == 0)] = -1
    elif case == "rated negatives of one":
        quality[first] = torch.rand(int(first.sum()), generator=generator, dtype=torch.float64)
    elif case == "a score of one beyond the fast sums":
        scores[0] = 1e9
    elif case == "NaN of one":
        scores[0] = math.nan
    return scores, quality, targets


def sizes_of(case, processes):
    sizes = [40 + 30 * rank for rank in range(processes)]
    if case == "a process without samples" and processes > 1:
        sizes[1] = 0
    return sizes


CASES = (
    "plain",
    "a process without positives",
    "a process without samples",
    "no positives anywhere",
    "ignored samples",
    "rated negatives of one",
    "a score of one beyond the fast sums",
    "NaN of one",
)


def loss_and_gradients(loss_fn, scores, quality, targets):
    scores, quality = scores.clone().requires_grad_(), quality.clone().requires_grad_()
    loss = loss_fn(scores, quality, targets)
    loss.backward()
    return loss.detach(), scores.grad, quality.grad


class AsForward:
    """A loss of terms() alone, called as ParameterizedAPLoss.forward is."""

    def __init__(self, loss_fn):
        self.loss_fn = loss_fn

    def __call__(self, scores, quality, targets):
        positives = (targets == 1).nonzero().squeeze(1)
        quality = quality[positives]
        given = [quality, (quality * 16).round() / 16][: len(self.loss_fn.qualities)]
        terms = self.loss_fn.terms(scores.masked_fill(targets < 0, -math.inf), positives, *given)
        return terms.ranking + 2 * terms.localization


class AsLayers(AsForward):
    """The same of a decoder's layers in one call."""

    def __call__(self, scores, quality, targets):
        positives = (targets == 1).nonzero().squeeze(1)
        scores = scores.masked_fill(targets < 0, -math.inf)
        terms = self.loss_fn.terms_of_each(
            torch.stack([scores, 3 * scores + 40]),
            positives.expand(2, -1),
            quality[positives] * torch.tensor([[1], [0.5]]),
        )
        return (terms.ranking * torch.tensor([1, 3])).sum() + terms.localization.sum()


def pairs():
    """(name, the loss of one process, the same of several) of every kind."""
    for kind, functions in KINDS.items():
        for block_gradient in (True, False):
            options = {"block_gradient": block_gradient, "grad_scale": 3.0}
            losses = [ParameterizedAPLoss(built(functions), **options, global_batch=g) for g in (False, True)]
            yield f"{kind}, block_gradient={block_gradient}", *losses
            yield f"layers, {kind}, block_gradient={block_gradient}", *map(AsLayers, losses)
    for name, kind in SIBLINGS.items():
        yield name, *(AsForward(kind(3.0, global_batch=g)) for g in (False, True))


def check_all(rank, processes):
    for case in CASES:
        sizes = sizes_of(case, processes)
        batch = whole_batch(case, sizes)
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        for kind, alone, together in pairs():
            wanted = loss_and_gradients(alone, *batch)
            got = loss_and_gradients(together, *(x[own] for x in batch))
            about = f"{case}, {kind}, {rank} of {processes}"
            torch.testing.assert_close(got[0], wanted[0], rtol=1e-12, atol=1e-15, equal_nan=True, msg=about)
            if case == "NaN of one":
                assert math.isnan(got[0]), about
                continue
            for mine, of_all in zip(got[1:], wanted[1:], strict=True):
                largest = float(of_all.abs().amax())
                # DistributedDataParallel averages over the processes.
                wrong = (mine / processes - of_all[own]).abs() > 1e-12 * largest
                assert not wrong.any(), (about, mine[wrong] / processes, of_all[own][wrong])


def check_that_validation_needs_nobody(rank, processes):
    if rank == 0:
        batch = whole_batch("plain", [50])
        for _, alone, together in pairs():
            with torch.no_grad():
                assert torch.equal(together(*batch), alone(*batch))


def check_that_what_is_sent_does_not_grow_with_the_samples(rank, processes):
    sent, calls = [], {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}

    def counting(name, position):
        def call(*args):
            sent[-1] += args[position].numel() * args[position].element_size()
            return calls[name](*args)

        return call

    kinds = [ParameterizedAPLoss(built(SEARCHED), global_batch=True)]
    kinds += [kind(global_batch=True) for kind in SIBLINGS.values()]
    dist.all_gather, dist.all_reduce = counting("all_gather", 1), counting("all_reduce", 0)
    try:
        for together in kinds:
            sent.clear()
            for samples, positives in ((1_000, 10), (50_000, 10), (50_000, 20)):
                sent.append(0)
                scores = torch.randn(samples, requires_grad=True)
                given = [torch.rand(positives) for _ in together.qualities or "q"]
                loss = together.terms(scores, torch.arange(positives), *given).ranking
                before = sent[-1]
                loss.backward()
                assert sent[-1] == before, "a message in the backward pass"
            few, many_samples, many_positives = sent
            assert 0 < few == many_samples < many_positives <= 200 * 20 * processes
    finally:
        for name, call in calls.items():
            setattr(dist, name, call)


def check_groups(rank, processes):
    for one in range(1, processes + 1):
        group = dist.new_group(list(range(one)))
        if rank < one:
            with only(group):
                check_all(rank, one)
    check_that_validation_needs_nobody(rank, processes)
    check_that_what_is_sent_does_not_grow_with_the_samples(rank, processes)


class only:
    """The default group for a while, so that one spawn serves every number of processes."""

    def __init__(self, group):
        self.group = group

    def __enter__(self):
        self.whole = dist.group.WORLD
        dist.group.WORLD = self.group

    def __exit__(self, *_):
        dist.group.WORLD = self.whole


def test_several_processes_train_as_one_with_the_whole_batch():
    check_in_ranks(check_groups, 4, 4)


def test_top_k_together_with_it_is_refused():
    with pytest.raises(ValueError, match="top_k and global_batch exclude each other"):
        ParameterizedAPLoss(built(SEARCHED), top_k=5, global_batch=True)
