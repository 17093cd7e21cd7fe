"""The look-up of buckets is the search for each score, however many there are."""

import pytest
import torch

from paramap_d2.losses.bucket_lookup import BEYOND, CHUNK, FEW, Buckets


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
    lower = torch.cat([depth, depth.new_tensor([BEYOND])])
    given = scores.clone()
    bucket, (count, *sums) = Buckets(lower[None]).fill(scores, None, powers=3)
    assert torch.equal(scores, given)
    want = torch.tensor([(edge > score).sum() for score in scores[:3_000].double()], dtype=torch.int32)
    rest = torch.searchsorted(depth, -scores[3_000:].double(), out_int32=True)
    assert torch.equal(bucket, torch.cat([want, rest]))
    assert torch.equal(count, torch.bincount(bucket, minlength=701))
    # Scores far above all edges may have been moved to just above them.
    for power, got in enumerate(sums, 1):
        distance = (lower[bucket] + scores.double()) ** power
        wanted = torch.zeros(701, dtype=torch.float64).index_add_(0, bucket, distance)
        torch.testing.assert_close(got[1:-1], wanted[1:-1], rtol=1e-12, atol=0)
        assert (got[:-1] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [50, 3_000, CHUNK // 2])
def test_several_rankings_are_looked_up_as_each_alone(samples, dtype):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, samples, generator=generator, dtype=torch.float64).to(dtype)
    scores[1] += 7
    lower = torch.randn(3, 401, generator=generator, dtype=torch.float64).sort(1).values
    lower[1] -= 7
    lower[2, 3:9] = lower[2, 3]
    lower[:, -1] = BEYOND
    ranking = torch.arange(3).repeat_interleave(samples)
    together, filled = Buckets(lower).fill(scores.flatten(), ranking, powers=3)
    for i in range(3):
        bucket, of_one = Buckets(lower[i : i + 1]).fill(scores[i], None, powers=3)
        assert torch.equal(together.view(3, -1)[i], bucket + 401 * i)
        for got, want in zip(filled, of_one, strict=True):
            torch.testing.assert_close(got.view(3, -1)[i, 1:-1], want[1:-1], rtol=1e-12, atol=0)
    assert torch.equal(Buckets(lower).search(scores.flatten(), ranking), together)
