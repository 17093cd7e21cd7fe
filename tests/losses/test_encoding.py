import pytest
import torch
from cases import decoded_points, dyadic_points, few
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.losses import PiecewiseLinear
from paramap_d2.losses.encoding import (
    GAP,
    decode_grad_scale,
    decode_points,
    encode_grad_scale,
    encode_points,
    identity_genes,
)

genes = st.integers(1, 8).flatmap(lambda k: st.lists(st.floats(0, 1), min_size=2 * k, max_size=2 * k))


def test_the_identity_is_as_published():
    assert identity_genes(4) == pytest.approx([1 / 5, 1 / 5, 1 / 4, 1 / 4, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    for x, y in decode_points(identity_genes(4)):
        assert x == pytest.approx(y)


@given(genes=genes)
@few
def test_any_genes_decode_to_a_function(genes):
    points = decode_points(genes)
    assert len(points) == len(genes) // 2 + 2
    f = PiecewiseLinear(points)  # would refuse points that are out of order
    assert min(b - a for a, b in zip(f.x, f.x[1:], strict=False)) >= GAP - 1e-12
    u = torch.linspace(0, 1, 257, dtype=torch.float64)
    assert (f.value(u).diff() >= -1e-12).all()


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_of_the_genes_are_safe(count, end):
    points = decode_points([end] * (2 * count))
    assert len(PiecewiseLinear(points).points) == count + 2
    assert all(y == end for _, y in points[1:-1])


def test_a_point_moves_by_its_share_of_the_rest():
    assert decode_points([0.5, 0.25, 0.5, 0.5]) == [(0, 0), (0.5, 0.25), (0.75, 0.625), (1, 1)]


@given(points=st.one_of(dyadic_points(), decoded_points()))
@few
def test_encoding_is_undone_by_decoding(points):
    points = [p for p in points if p[0] in (0.0, 1.0) or GAP * 9 < p[0] < 1 - GAP * 9]
    points = [p for k, p in enumerate(points) if k == 0 or p[0] - points[k - 1][0] > 2 * GAP]
    encoded = encode_points(points)
    assert all(0 <= gene <= 1 for gene in encoded)
    for got, want in zip(decode_points(encoded), points, strict=True):
        assert got == pytest.approx(want, abs=1e-12)


@given(points=dyadic_points(), more=st.integers(0, 4))
@few
def test_points_that_are_added_leave_the_function_as_it_is(points, more):
    points = [p for p in points if p[0] * 64 % 1 == 0]  # decoding keeps a gap that nearly vertical pieces break
    count = len(points) - 2 + more
    encoded = encode_points(points, count)
    assert len(encoded) == 2 * count
    u = torch.linspace(0, 1, 257, dtype=torch.float64)
    got, want = PiecewiseLinear(decode_points(encoded)).value(u), PiecewiseLinear(points).value(u)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_the_line_encodes_to_the_identity():
    points = decode_points(encode_points([(0, 0), (1, 1)], 4))
    assert all(x == pytest.approx(y) for x, y in points)


def test_points_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="2 interior control points do not fit into 1"):
        encode_points([(0, 0), (0.2, 0.2), (0.4, 0.4), (1, 1)], 1)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([0.5] * 3, "even number of genes, not 3"),
        ([0.5, 1.5], r"gene 1 is 1.5, outside \[0, 1\]"),
        ([-0.1, 0.5], "gene 0 is -0.1"),
        ([0.5, 0.5, float("nan"), 0.5], "gene 2 is nan"),
    ],
)
def test_genes_that_do_not_decode_are_named(genes, message):
    with pytest.raises(ValueError, match=message):
        decode_points(genes)


def test_the_gradient_scale():
    assert [decode_grad_scale(g) for g in (0, 0.5, 1)] == pytest.approx([0.1, 1, 10])
    for scale in (0.1, 0.7, 1.0, 4.1231, 10.0):
        assert decode_grad_scale(encode_grad_scale(scale)) == pytest.approx(scale)
    assert encode_grad_scale(1000) == 1 and encode_grad_scale(1e-9) == 0
    with pytest.raises(ValueError, match="the gradient scale's gene is 1.1"):
        decode_grad_scale(1.1)
