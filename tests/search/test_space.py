import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramap_d2.errors import UserError
from paramap_d2.losses import FUNCTION_NAMES, PiecewiseLinear, load_loss
from paramap_d2.search.space import SearchSpace


@pytest.mark.parametrize(
    "space, genes",
    [
        (SearchSpace(("dense",)), 41),
        (SearchSpace(("rpn", "roi")), 82),
        (SearchSpace(("dense",), mode="shared"), 9),
        (SearchSpace(("dense",), points=2, grad_scale=1.0), 20),
        (SearchSpace(("roi",), fixed={"rpn": load_loss("fasterrcnn-coco")["rpn"]}), 41),
    ],
)
def test_genes_and_names(space, genes):
    assert space.genes == genes == len(space.gene_names) == len(set(space.gene_names)) == len(space.identity())


def test_identity_decodes_to_the_identity():
    loss = SearchSpace(("dense",)).decode(SearchSpace(("dense",)).identity())["dense"]
    assert loss.grad_scale == pytest.approx(1.0)
    for function in loss.functions.values():
        assert all(x == pytest.approx(y) for x, y in function.points)
        assert len(function.points) == 6


@pytest.mark.parametrize("preset, heads", [("retinanet-coco", ("dense",)), ("fasterrcnn-coco", ("rpn", "roi"))])
def test_presets_encode_and_decode(preset, heads):
    space = SearchSpace(heads)
    genome = space.encode(load_loss(preset))
    again = space.decode(genome)
    for head, loss in load_loss(preset).items():
        assert again[head].grad_scale == pytest.approx(loss.grad_scale)
        for name in FUNCTION_NAMES:
            for got, want in zip(again[head].functions[name].points, loss.functions[name].points, strict=True):
                assert got == pytest.approx(want, abs=1e-9)


@settings(max_examples=50, derandomize=True)
@given(st.data())
def test_every_gene_changes_the_loss(data):
    space = SearchSpace(
        ("rpn", "roi"), points=data.draw(st.integers(1, 4)), mode=data.draw(st.sampled_from(["separate", "shared"]))
    )
    genome = data.draw(st.lists(st.floats(0.2, 0.8), min_size=space.genes, max_size=space.genes))
    before = space.decode(genome)
    for place in range(space.genes):
        changed = list(genome)
        changed[place] += 0.05
        after = space.decode(changed)
        assert after != before
        head = space.gene_names[place].split(".")[0]
        assert [h for h in after if after[h] != before[h]] == [head]


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_every_genome_is_a_loss(genome):
    (loss,) = SearchSpace(("dense",), mode="shared").decode(genome).values()
    assert 0.1 <= loss.grad_scale <= 10.000001
    assert len(set(loss.functions.values())) == 1


def test_fixed_heads_stay():
    fixed = load_loss("fasterrcnn-coco")["rpn"]
    space = SearchSpace(("roi",), fixed={"rpn": fixed})
    assert space.decode(space.identity())["rpn"] is fixed
    assert json.dumps(space.describe()) != json.dumps(SearchSpace(("roi",)).describe())


def of_scale(scale):
    return {"dense": replace(load_loss("linear")["dense"], grad_scale=scale)}


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_ends_of_the_gradient_scales_are_searched(scale):
    space = SearchSpace(("dense",))
    assert space.decode(space.encode(of_scale(scale)))["dense"].grad_scale == pytest.approx(scale)
    fixed = SearchSpace(("dense",), grad_scale=25.0)
    assert fixed.decode(fixed.encode(of_scale(25.0)))["dense"].grad_scale == 25.0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SearchSpace(("dense",), mode="both"), "mode must be one of separate, shared"),
        (lambda: SearchSpace(("dense",), points=0), "from 1 to 32, not 0"),
        (lambda: SearchSpace(()), "no head to search"),
        (lambda: SearchSpace(("roi",)).encode(load_loss("retinanet-coco"), "x.json"), "x.json has no head 'roi'"),
        (lambda: SearchSpace(("dense",)).encode(load_loss("square"), "square"), "'rank_numerator' .* not piecewise"),
        (lambda: SearchSpace(("dense",), points=2).encode(load_loss("retinanet-coco")), "4 interior .* into 2"),
        (lambda: SearchSpace(("dense",), mode="shared").encode(load_loss("retinanet-coco")), "differ, and the search"),
        (lambda: SearchSpace(("dense",)).encode(of_scale(25)), "scale 25 .* 0.1 to 10; --fix-grad-scale 25 "),
    ],
)
def test_user_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_length():
    with pytest.raises(ValueError, match="41 genes, not 3"):
        SearchSpace(("dense",)).decode([0.5] * 3)


def test_fewer_points_are_filled_up():
    space = SearchSpace(("dense",))
    loss = space.decode(space.encode(load_loss("linear")))["dense"]
    assert all(isinstance(f, PiecewiseLinear) and len(f.points) == 6 for f in loss.functions.values())
