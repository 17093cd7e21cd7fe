"""The look-up of buckets is the search for each score, however many there are."""

import pytest
import torch

from paramap_d2.losses.bucket_lookup import CHUNK, FEW, fill_buckets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [0.0, 1e5])
@pytest.mark.parametrize("samples", [0, 100, 5_000, CHUNK + 4_000])
def test_the_look_up_is_the_search(samples, far, dtype):
    generator = torch.Generator().manual_seed(0)
    edge = torch.randn(700, generator=generator, dtype=torch.float64) * 3
    edge[300:310] = edge[300]
    edge[0] += far  # stretches the grid of cells so far that the others share a few of them
    near = edge.to(dtype)
    steps = [torch.nextafter(near, near + way) for way in (-1, 1)]
    ends = torch.tensor([-torch.inf, -3e38, 3e38, 0.0, -0.0], dtype=dtype)
    scores = torch.cat([ends, near, *steps, torch.randn(CHUNK + 2_000, generator=generator).to(dtype) * 4])[:samples]
    assert samples in (0, 100) or samples > FEW
    depth = edge.neg().sort().values
    lower = torch.cat([depth, depth.new_tensor([torch.inf])])
    given = scores.clone()
    filling = fill_buckets(scores, depth, lower)
    assert torch.equal(scores, given)
    want = torch.tensor([(edge > score).sum() for score in scores[:3_000].double()], dtype=torch.int32)
    rest = torch.searchsorted(depth, -scores[3_000:].double(), out_int32=True)
    assert torch.equal(filling.bucket, torch.cat([want, rest]))
    assert torch.equal(filling.count, torch.bincount(filling.bucket, minlength=701).double())
    distance = torch.zeros(701, dtype=torch.float64).index_add_(
        0, filling.bucket, lower[filling.bucket] + scores.double()
    )
    torch.testing.assert_close(filling.distance[:-1], distance[:-1], rtol=1e-12, atol=0)
    assert (filling.distance[:-1] >= 0).all()
