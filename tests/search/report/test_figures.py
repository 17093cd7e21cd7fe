import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from paramap_d2.errors import UserError
from paramap_d2.losses import FUNCTION_NAMES, HeadLoss, PiecewiseLinear, Sigmoid, Sqrt, load_loss
from paramap_d2.search.report import drawing, figures
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation

SPACE = SearchSpace(("dense",))


def evaluation(number, generation, fitness, status="finished", **more):
    rng = np.random.default_rng(number)
    values = {"seconds": 10.0, "position": number % 4, "seed": 0, "genome": rng.random(SPACE.genes).tolist(), **more}
    return Evaluation(generation, status=status, fitness=fitness, id=number, **values)


@pytest.fixture
def history():
    """Two generations of four: one failure, one interrupted."""
    return [
        evaluation(1, 0, 20.0),
        evaluation(2, 0, 0.0, "diverged"),
        evaluation(3, 0, 30.0),
        evaluation(4, 0, 25.0),
        evaluation(5, 1, 0.0, "interrupted"),
        evaluation(6, 1, 28.0),
        evaluation(7, 1, 31.5),
        evaluation(8, 1, 29.0),
    ]


def lines(ax, **properties):
    """The axes' lines with these properties."""
    return [line for line in ax.lines if all(getattr(line, f"get_{key}")() == v for key, v in properties.items())]


def test_curves_are_what_the_loss_applies():
    function = PiecewiseLinear([(0, 0), (0.25, 0.6), (1, 1)])
    x, y = figures.curve("rank_numerator", function)
    assert x.tolist() == [-1, -0.5, 1] and y.tolist() == [0, 0.6, 1]
    x, y = figures.curve("sample_quality", function)
    assert x.tolist() == [0, 0.25, 1] and y.tolist() == [0, 0.6, 1]
    x, y = figures.curve("rank_denominator", Sqrt())
    assert (x[0], x[-1]) == (-1, 1) and np.allclose(y, np.sqrt(x / 2 + 0.5))
    x, y = figures.curve("rank_denominator", Sigmoid())
    assert (x[0], x[-1]) == (-4, 4) and np.allclose(y, 1 / (1 + np.exp(-x)))
    x, y = figures.curve("positive_weight", Sigmoid())
    assert (x[0], x[-1]) == (0, 1) and np.allclose(y, 1 / (1 + np.exp(1 - 2 * x)))


def test_a_row_for_each_head_that_differs():
    assert list(figures.merge_equal(load_loss("fasterrcnn-coco"))) == ["rpn", "roi"]
    assert list(figures.merge_equal(load_loss("square"))) == ["dense, rpn, roi, detr"]
    functions = load_loss("retinanet-coco")["dense"].functions
    losses = {"a": HeadLoss(functions, 1.0), "b": HeadLoss(functions, 2.0), "c": HeadLoss(functions, 1.0)}
    assert list(figures.merge_equal(losses)) == ["a, c", "b"]


def test_the_functions_with_points_identity_and_scale():
    losses = load_loss("fasterrcnn-coco")
    figure = figures.functions_figure(losses, title="costs $5_")
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
    ax = figures.functions_figure({"dense": load_loss("sigmoid")["dense"]}).axes[0]
    (identity,) = lines(ax, linestyle="--")
    assert identity.get_xydata().tolist() == [[-4, 0], [-1, 0], [1, 1], [4, 1]]
    assert not lines(ax, marker="o")


def test_pictures_are_written_whole(tmp_path, history):
    figures.draw_functions(load_loss("fasterrcnn-coco"), tmp_path / "functions.png", title="searched")
    figures.draw_history(history, tmp_path / "history.png", "AP50")
    for name in ("functions", "history"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 1000 and picture.getpixel((0, 0))[:3] == (255, 255, 255)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["functions.png", "history.png"]


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, history, monkeypatch):
    path = tmp_path / "history.png"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        figures.draw_history(history, path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["history.png"]


@pytest.mark.parametrize("name", ["functions", "functions.bmp2", "functions.json"])
def test_unknown_formats_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"its name must end in one of .*\.png"):
        figures.draw_functions(load_loss("square"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_history_shows_every_evaluation(history):
    (ax,) = figures.history_figure(history, "AP50").axes
    points = np.concatenate([line.get_xydata() for line in lines(ax, marker="o")])
    assert points.tolist() == [[1, 20], [3, 30], [4, 25], [6, 28], [7, 31.5], [8, 29]]
    assert len({line.get_color() for line in lines(ax, marker="o")}) == 2  # generations
    (failed,) = lines(ax, label="failed")
    assert failed.get_xydata().tolist() == [[2, 0]] and failed.get_marker() == "x"
    (best,) = lines(ax, label="best so far")
    assert best.get_xydata().tolist() == [[1, 20], [2, 20], [3, 30], [4, 30], [6, 30], [7, 31.5], [8, 31.5]]
    borders = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_label().startswith("_child")]
    assert [line.get_xdata()[0] for line in borders if len(set(line.get_xdata())) == 1] == [5.0]
    assert [text.get_text() for text in ax.texts] == ["gen 0", "1"]
    assert ax.get_ylabel() == "AP50"


def test_history_of_nothing_and_of_failures_only():
    (ax,) = figures.history_figure([]).axes
    assert [text.get_text() for text in ax.texts] == ["no evaluation has finished"]
    (ax,) = figures.history_figure([evaluation(k, 0, 0.0, "failed") for k in (1, 2)]).axes
    assert not lines(ax, label="best so far") and not lines(ax, marker="o")
    assert lines(ax, label="failed")[0].get_xydata().tolist() == [[1, 0], [2, 0]]


def all_svgs(history):
    losses = load_loss("retinanet-coco")["dense"].functions
    return [
        *(figures.function_svg(name, function, f"dense-{name}") for name, function in losses.items()),
        figures.history_svg(history),
        figures.compute_svg(history),
        figures.spread_svg(history),
        figures.genes_svg(history, SPACE, "dense", history[0].genome),
    ]


def test_svg_fits_into_a_page(history):
    svgs = all_svgs(history)
    ids = [name for svg in svgs for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg") and root.get("viewBox") and root.get("aria-label")
        assert root.get("width") is None  # as wide as its place
        assert not re.search(r"#[0-9a-fA-F]{6}\b|<style|<metadata|DejaVu", svg)
        used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]*)', svg))
        assert used <= set(re.findall(r' id="([^"]*)"', svg))
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= {name for name, _ in drawing.LIGHT.names()}
        assert root.findall(".//{http://www.w3.org/2000/svg}text")


def test_svgs_of_nothing(history):
    failed = [evaluation(1, 0, 0.0, "failed", seconds=0.0)]
    for evaluations in ([], failed, history[4:5]):
        for svg in (
            figures.history_svg(evaluations),
            figures.compute_svg(evaluations),
            figures.spread_svg(evaluations),
            figures.genes_svg(evaluations, SPACE, "dense"),
        ):
            ElementTree.fromstring(svg)


def texts(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_compute_chooses_a_unit(history):
    assert "seconds of training, all workers together" in texts(figures.compute_svg(history))
    long = [evaluation(k, 0, 10.0, seconds=4000.0) for k in range(1, 5)]
    assert "hours of training, all workers together" in texts(figures.compute_svg(long))


@pytest.mark.parametrize(
    "space, head, labels",
    [
        (SPACE, "dense", 41),
        (SearchSpace(("rpn", "roi"), points=2), "roi", 21),
        (SearchSpace(("dense",), mode="shared"), "dense", 9),
        (SearchSpace(("dense",), grad_scale=2.0), "dense", 40),
    ],
)
def test_parallel_coordinates_have_an_axis_for_each_gene(space, head, labels):
    genomes = np.random.default_rng(0).random((3, space.genes))
    evaluations = [evaluation(k, 0, 10.0 * k, genome=g.tolist()) for k, g in enumerate(genomes, 1)]
    svg = figures.genes_svg(evaluations, space, head, evaluations[-1].genome)
    axes = [text for text in texts(svg) if re.fullmatch(r"[xy]\d|scale", text or "")]
    assert len(axes) == labels
    assert ("scale" in axes) == (space.grad_scale is None)
    assert ("all functions" in texts(svg)) == (space.mode == "shared")


def test_parallel_coordinates_colour_by_rank_and_stay_small():
    few = [evaluation(k, 0, float(k)) for k in range(1, 4)]
    svg = figures.genes_svg(few, SPACE, "dense")
    assert {"ramp0", "ramp6", "ramp11"} <= set(re.findall(r"var\(--(\w+)\)", svg))
    assert "stroke: var(--best)" not in svg
    many = [evaluation(k, 0, float(k)) for k in range(1, 3 * figures.MOST_LINES)]
    most = figures.genes_svg(many[-figures.MOST_LINES :], SPACE, "dense")
    assert len(figures.genes_svg(many, SPACE, "dense")) == len(most)


def _contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette, panel", [(drawing.LIGHT, "#f5f6f8"), (drawing.DARK, "#1e2228")])
def test_marks_and_text_stand_out_from_the_page(palette, panel):
    """3:1 for marks, 4.5:1 for text, on the panels too (WCAG 2.2, 1.4.11 and 1.4.3)."""
    for colour in (palette.best, palette.failure, palette.curve, *palette.ramp):
        assert _contrast(colour, palette.page) >= 3
    for colour in (palette.ink, palette.muted):
        assert min(_contrast(colour, palette.page), _contrast(colour, panel)) >= 4.5
