"""What the loss costs, counted and not timed: operations, elements they read and write, bytes held at once."""

import pytest
import torch
from cases import SEARCHED, built
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.loss import draw, peak_bytes, plain_pairwise, with_forward, with_terms
from benchmarks.other_losses import our_ap_loss, our_rank_sort
from paramap_d2.losses import ParameterizedAPLoss
from paramap_d2.losses.bucket_lookup import CHUNK
from paramap_d2.losses.small_arrays import SERIAL

LOSS = ParameterizedAPLoss(built(SEARCHED))
BREAKPOINTS = 10  # the union of the two ranking functions', 4 each inside and 2 ends
WAYS = pytest.mark.parametrize("way", [with_terms, with_forward])


@pytest.fixture(autouse=True)
def one_thread():
    """With several, samples are taken in smaller chunks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Counted(TorchDispatchMode):
    """Counts what the operations inside it read and write; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.operations = self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            tensors = (x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor))
            self.elements += sum(x.numel() for x in tensors)
        return result


def count(way, samples, positives, situation="early"):
    batch = draw(samples, positives, situation, "cpu")
    way(LOSS, batch)
    with Counted() as counted:
        way(LOSS, batch)
    return counted


def test_the_count_sees_the_pairs_of_the_plain_form():
    assert count(plain_pairwise, 2000, 50).elements > 10 * 2000 * 50


@pytest.mark.parametrize(
    ("way", "situation", "limit"),
    [(with_terms, "early", 55), (with_terms, "late", 25), (with_forward, "early", 80), (with_forward, "late", 50)],
)
def test_a_sample_costs_a_few_reads_and_writes(way, situation, limit):
    few, many = (count(way, n, 100, situation).elements for n in (CHUNK, 5 * CHUNK))
    assert (many - few) / (4 * CHUNK) < limit


@pytest.mark.parametrize("way", [with_terms, with_forward, our_ap_loss, our_rank_sort])
def test_a_positive_costs_the_same_whatever_the_number_of_samples(way):
    def of_positives(samples):
        return count(way, samples, 200).elements - count(way, samples, 100).elements

    near, far = of_positives(CHUNK), of_positives(5 * CHUNK)
    assert near < 100 * 600 * BREAKPOINTS
    # One pair of each new positive and each new sample would add 100 · 4 · CHUNK, some 26 million.
    assert far - near < 4 * CHUNK


SERIAL_ANYWAY = ("aten.empty", "aten.index_select", "aten.lift_fresh", "aten.cumsum_")
"""What torch does by one thread however many elements there are; cumsum_ where they are one row."""


class Shared(TorchDispatchMode):
    """Collects the operations that torch would share out among its threads."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        written = args[2] if str(func) == "aten.index_copy_.default" else result  # as many as there are indices
        elements = max((x.numel() for x in tree_leaves(written) if isinstance(x, torch.Tensor)), default=0)
        rows = args[0].dim() > 1 and max(args[0].shape) < args[0].numel() if str(func).startswith("aten.cumsum_") else 0
        if elements > SERIAL and not func.is_view and (rows or not str(func).startswith(SERIAL_ANYWAY)):
            self.found.append((str(func), elements))
        return result


@pytest.mark.parametrize("situation", ["early", "late"])
@pytest.mark.parametrize(("samples", "positives"), [(2 * CHUNK, 500), (CHUNK, 5000)])
def test_several_threads_are_given_nothing_to_share(samples, positives, situation):
    batch = draw(samples, positives, situation, "cpu")
    torch.set_num_threads(2)
    with_terms(LOSS, batch)
    with Shared() as shared:
        with_terms(LOSS, batch)
    assert shared.found == []


@WAYS
def test_the_number_of_operations_grows_neither_with_samples_nor_with_positives(way):
    base = count(way, 5000, 50).operations
    assert count(way, CHUNK, 50).operations <= base + 10
    assert count(way, CHUNK, 500).operations <= base + 16
    chunks = 4
    assert count(way, chunks * CHUNK, 50).operations - base <= 40 * (chunks - 1)


@pytest.mark.parametrize(("way", "limit"), [(with_terms, 120), (with_forward, 140)])
@pytest.mark.parametrize("situation", ["early", "late"])
@pytest.mark.parametrize(("samples", "positives"), [(20_000, 100), (65_000, 500)])
def test_the_fixed_cost_is_few_small_operations(samples, positives, situation, way, limit):
    assert count(way, samples, positives, situation).operations <= limit


@pytest.mark.parametrize("situation", ["early", "late"])
@pytest.mark.parametrize(("way", "limit"), [(with_terms, 120), (with_forward, 140)])
def test_a_gpu_is_given_few_operations(way, limit, situation, without_numpy, monkeypatch):
    """There torch does what NumPy does on a CPU, unseen by the count."""
    monkeypatch.setitem(globals(), "LOSS", ParameterizedAPLoss(built(SEARCHED)))
    count(way, 131_072, 500, situation)  # makes the tables that are kept
    assert count(way, 131_072, 500, situation).operations <= limit


@WAYS
@pytest.mark.parametrize("situation", ["early", "late"])
def test_at_most_64_bytes_a_sample_are_held(way, situation):
    batch = draw(100_000, 500, situation, "cpu")
    way(LOSS, batch)
    batch.scores.grad = batch.quality.grad = batch.positive_quality.grad = None
    assert 4 * 100_000 < peak_bytes(lambda: way(LOSS, batch)) <= 64 * 100_000
