import numpy as np
import pytest

from paramap_d2.errors import UserError
from paramap_d2.losses import FUNCTION_NAMES, HeadLoss, PiecewiseLinear, Sigmoid, Sqrt, load_loss
from paramap_d2.search.report import functions as pictures


def lines(ax, **properties):
    """The axes' lines with these properties."""
    return [line for line in ax.lines if all(getattr(line, f"get_{key}")() == v for key, v in properties.items())]


def test_curves_are_what_the_loss_applies():
    function = PiecewiseLinear([(0, 0), (0.25, 0.6), (1, 1)])
    x, y = pictures.curve("rank_numerator", function)
    assert x.tolist() == [-1, -0.5, 1] and y.tolist() == [0, 0.6, 1]
    x, y = pictures.curve("sample_quality", function)
    assert x.tolist() == [0, 0.25, 1] and y.tolist() == [0, 0.6, 1]
    x, y = pictures.curve("rank_denominator", Sqrt())
    assert (x[0], x[-1]) == (-1, 1) and np.allclose(y, np.sqrt(x / 2 + 0.5))
    x, y = pictures.curve("rank_denominator", Sigmoid())
    assert (x[0], x[-1]) == (-4, 4) and np.allclose(y, 1 / (1 + np.exp(-x)))
    x, y = pictures.curve("positive_weight", Sigmoid())
    assert (x[0], x[-1]) == (0, 1) and np.allclose(y, 1 / (1 + np.exp(1 - 2 * x)))


def test_a_row_for_each_head_that_differs():
    assert list(pictures.merge_equal(load_loss("fasterrcnn-coco"))) == ["rpn", "roi"]
    assert list(pictures.merge_equal(load_loss("square"))) == ["dense, rpn, roi, detr"]
    functions = load_loss("retinanet-coco")["dense"].functions
    losses = {"a": HeadLoss(functions, 1.0), "b": HeadLoss(functions, 2.0), "c": HeadLoss(functions, 1.0)}
    assert list(pictures.merge_equal(losses)) == ["a, c", "b"]


def test_the_functions_with_points_identity_and_scale():
    losses = load_loss("fasterrcnn-coco")
    figure = pictures.functions_figure(losses, title="costs $5_")
    assert [text.get_text() for text in figure.texts] == [
        "costs $5_",
        "rpn · gradient scale 1.695",
        "roi · gradient scale 7.132",
    ]
    assert [ax.get_title() for ax in figure.axes] == [*FUNCTION_NAMES, *FUNCTION_NAMES]
    for ax, head in zip(figure.axes, ["rpn"] * 5 + ["roi"] * 5, strict=True):
        name = ax.get_title()
        points = np.array(losses[head].functions[name].points)
        if name.startswith("rank_"):
            points[:, 0] = 2 * points[:, 0] - 1
        (marks,) = lines(ax, marker="o")
        assert np.allclose(marks.get_xydata(), points[1:-1])
        (function,) = lines(ax, label=name)
        assert np.allclose(function.get_xydata(), points)
        (identity,) = lines(ax, linestyle="--")
        assert set(map(tuple, identity.get_xydata())) == {(points[0, 0], 0), (1, 1)}
        assert ax.get_xlabel().startswith("score difference" if name.startswith("rank_") else "quality")


def test_a_function_that_never_saturates_is_compared_with_the_clamped_identity():
    ax = pictures.functions_figure({"dense": load_loss("sigmoid")["dense"]}).axes[0]
    (identity,) = lines(ax, linestyle="--")
    assert identity.get_xydata().tolist() == [[-4, 0], [-1, 0], [1, 1], [4, 1]]
    assert not lines(ax, marker="o")


@pytest.mark.parametrize("name", ["functions", "pictures.bmp2", "pictures.json"])
def test_unknown_formats_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"its name must end in one of .*\.png"):
        pictures.draw_functions(load_loss("square"), tmp_path / name)
    assert not list(tmp_path.iterdir())
