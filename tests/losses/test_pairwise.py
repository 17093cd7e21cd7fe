"""The path pair by pair: what it holds at once, and that its chunks add up."""

import pytest
import torch

from benchmarks.loss import draw, peak_bytes, with_terms
from paramap_d2.losses import FUNCTION_NAMES, ParameterizedAPLoss, Sigmoid, pairwise


@pytest.mark.parametrize(("samples", "positives"), [(2_000_000, 4), (20_000, 1500), (4000, 4000)])
def test_holds_nothing_of_the_length_of_the_scores_but_the_gradient(samples, positives):
    loss_fn = ParameterizedAPLoss(dict.fromkeys(FUNCTION_NAMES, Sigmoid()))
    batch = draw(samples, positives, "early", "cpu")
    peak = peak_bytes(lambda: with_terms(loss_fn, batch))
    assert 4 * samples < peak < 4 * samples + 3e6


def test_chunks_along_both_axes_add_up(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(120, generator=generator, dtype=torch.float64)
    positives = torch.randperm(120, generator=generator)[:15]
    rated = torch.cat([positives, torch.arange(120)[~torch.isin(torch.arange(120), positives)][::7]])
    extra = torch.rand(len(rated), generator=generator, dtype=torch.float64) - 0.75
    grads = torch.rand(2, 15, generator=generator, dtype=torch.float64)
    found = []
    for pairs, samples in ((2**16, 2**13), (64, 16), (7, 3), (1, 1)):
        monkeypatch.setattr(pairwise, "CHUNK_PAIRS", pairs)
        monkeypatch.setattr(pairwise, "CHUNK_SAMPLES", samples)
        sums = pairwise.PairwiseSums(scores, scores[positives], Sigmoid(), Sigmoid(), rated, extra, 0.75)
        found.append((sums.sums, sums.slopes, *sums.gradient(grads)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-14)
