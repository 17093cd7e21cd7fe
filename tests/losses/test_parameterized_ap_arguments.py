"""What a ParameterizedAPLoss cannot be made of or called with is named."""

import math

import pytest
import torch
from cases import SEARCHED, built

from paramap_d2.losses import ParameterizedAPLoss, PiecewiseLinear


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 1)}, r"scores must have one dimension, not shape \(4, 1\)"),
        ({"quality": torch.zeros(3)}, "quality has 3 entries, scores has 4"),
        ({"targets": torch.zeros(5).long()}, "targets has 5 entries, scores has 4"),
        ({"targets": torch.zeros(()).long()}, "targets must have one dimension"),
        ({"scores": torch.zeros(4).long()}, "scores must be of a floating type, not torch.int64"),
        ({"scores": torch.zeros(4).cfloat()}, "scores must be of a floating type, not torch.complex64"),
        ({"quality": torch.zeros(4).int()}, "quality must be of a floating type, not torch.int32"),
        ({"targets": torch.zeros(4)}, "targets must be integers .*, not torch.float32"),
        ({"targets": torch.tensor([0, 1, 2, 0])}, r"targets must be 1, 0 or -1; targets\[2\] is 2"),
        ({"targets": torch.tensor([0, 1, 0, -2])}, r"targets must be 1, 0 or -1; targets\[3\] is -2"),
        ({"scores": [0.0] * 4}, "scores must be a tensor, not list"),
        ({"quality": torch.zeros(4, device="meta")}, "quality is on meta, scores on cpu"),
    ],
)
def test_input_that_does_not_fit_is_named(change, message):
    given = {"scores": torch.zeros(4), "quality": torch.zeros(4), "targets": torch.zeros(4).long(), **change}
    with pytest.raises(ValueError, match=message):
        ParameterizedAPLoss(built(SEARCHED))(**given)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"rank_numerator": None}, {}, "function 'rank_numerator' is a NoneType"),
        ({"rank_nominator": PiecewiseLinear.identity()}, {}, "unknown function 'rank_nominator'"),
        ({}, {"top_k": 0}, "top_k must be None or at least 1, not 0"),
        ({}, {"grad_scale": 0.0}, "grad_scale must be a positive number, not 0.0"),
        ({}, {"grad_scale": math.nan}, "grad_scale must be a positive number, not nan"),
        ({}, {"grad_scale": math.inf}, "grad_scale must be a positive number, not inf"),
    ],
)
def test_options_that_make_no_loss_are_named(change, options, message):
    with pytest.raises(ValueError, match=message):
        ParameterizedAPLoss({**built(SEARCHED), **change}, **options)


def test_a_missing_function_is_named():
    functions = built(SEARCHED)
    del functions["positive_weight"]
    with pytest.raises(ValueError, match="function 'positive_weight' is missing; the five are rank_numerator"):
        ParameterizedAPLoss(functions)


def test_its_repr_tells_what_it_computes():
    text = repr(ParameterizedAPLoss(built(SEARCHED), top_k=7))
    assert "rank_numerator=PiecewiseLinear([(0.0, 0.0), (0.4182, 0.0277)" in text and "top_k=7" in text
