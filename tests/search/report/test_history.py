import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_searches import SPACE, row, two_generations
from PIL import Image

from paramap_d2.losses import load_loss
from paramap_d2.search.report import drawing
from paramap_d2.search.report import history as charts
from paramap_d2.search.report.curves import curves_svg
from paramap_d2.search.report.functions import draw_functions, function_svg
from paramap_d2.search.report.genes import genes_svg
from paramap_d2.search.report.seeds import by_loss, seeds_svg


def lines(ax, **properties):
    """The axes' lines with these properties."""
    return [line for line in ax.lines if all(getattr(line, f"get_{key}")() == v for key, v in properties.items())]


def test_pictures_are_written_whole(tmp_path):
    draw_functions(load_loss("fasterrcnn-coco"), tmp_path / "functions.png", title="searched")
    charts.draw_history(two_generations(), tmp_path / "history.png", "AP50")
    for name in ("functions", "history"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 1000 and picture.getpixel((0, 0))[:3] == (255, 255, 255)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["functions.png", "history.png"]


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "history.png"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        charts.draw_history(two_generations(), path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["history.png"]


def test_history_shows_every_evaluation():
    (ax,) = charts.history_figure(two_generations(), "AP50").axes
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
    (ax,) = charts.history_figure([]).axes
    assert [text.get_text() for text in ax.texts] == ["no evaluation has finished"]
    (ax,) = charts.history_figure([row(k, 0, 0.0, "failed") for k in (1, 2)]).axes
    assert not lines(ax, label="best so far") and not lines(ax, marker="o")
    assert lines(ax, label="failed")[0].get_xydata().tolist() == [[1, 0], [2, 0]]


NAMES = {tuple(row(1).genome): "linear", tuple(row(3).genome): "other <best>"}

LONGER = [
    row(9, 0, 33.0, stage="final", genome=row(3).genome, planned=300),
    row(10, 0, 32.0, stage="confirm", genome=row(3).genome, planned=300),
    row(11, 0, 29.0, stage="confirm", genome=row(1).genome, planned=300),
]


def all_svgs(evaluations):
    losses = load_loss("retinanet-coco")["dense"].functions
    called = {tuple(e.genome): f"#{e.id}" for e in evaluations} | NAMES
    looked_at = [row(e.id, e.generation, e.fitness, e.status, curve=[[50, 0.5 * e.fitness]]) for e in evaluations]
    return [
        *(function_svg(name, function, f"dense-{name}") for name, function in losses.items()),
        charts.history_svg(evaluations, "AP", NAMES),
        charts.compute_svg(evaluations, "AP", NAMES),
        charts.spread_svg(evaluations, "AP", NAMES),
        curves_svg(looked_at, "AP", NAMES),
        seeds_svg(by_loss(evaluations, called)),
        genes_svg(evaluations, SPACE, "dense", evaluations[0].genome, NAMES),
    ]


def test_svg_fits_into_a_page():
    svgs = all_svgs(two_generations() + LONGER)
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


def test_svgs_of_nothing():
    failed = [row(1, 0, 0.0, "failed", seconds=0.0)]
    for evaluations in ([], failed, [row(5, 1, 0.0, "interrupted")]):
        for svg in (
            charts.history_svg(evaluations),
            charts.compute_svg(evaluations),
            charts.spread_svg(evaluations),
            genes_svg(evaluations, SPACE, "dense"),
        ):
            ElementTree.fromstring(svg)


def texts(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_compute_chooses_a_unit():
    short = [row(k, 0, 10.0, seconds=40.0) for k in range(1, 5)]
    assert "seconds of training, all workers together" in texts(charts.compute_svg(short))
    long = [row(k, 0, 10.0, seconds=4000.0) for k in range(1, 5)]
    assert "hours of training, all workers together" in texts(charts.compute_svg(long))


def test_losses_with_a_name_have_a_mark_of_their_own_and_a_level():
    """In words in the legend, by the marker's shape, and the better one as a line across."""
    (ax,) = charts.history_figure(two_generations(), names=NAMES).axes
    (legend,) = [t for t in [ax.get_legend()] if t]
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["best so far", "failed", "linear, 20.00", "other <best>, 30.00"]
    linear, other = lines(ax, marker="*")[0], lines(ax, marker="P")[0]
    assert linear.get_xydata().tolist() == [[1, 20]] and other.get_xydata().tolist() == [[3, 30]]
    assert [line.get_ydata()[0] for line in lines(ax, linestyle=":") if len(line.get_xdata())] == [30]
    for svg in all_svgs(two_generations())[5:8] + all_svgs(two_generations())[10:]:
        assert any("other <best>" in (text or "") for text in texts(svg))


def test_longer_trainings_are_marks_of_their_own_after_the_proxies():
    (ax,) = charts.history_figure(two_generations() + LONGER).axes
    (final,), (confirmed,) = lines(ax, label="final training"), lines(ax, label="confirming training")
    assert (final.get_marker(), final.get_xydata().tolist()) == ("s", [[9, 33]])
    assert (confirmed.get_marker(), confirmed.get_xydata().tolist()) == ("D", [[10, 32], [11, 29]])
    (best,) = lines(ax, label="best so far")
    assert best.get_ydata()[-1] == 31.5  # of proxies: longer trainings are not to be compared with them
    borders = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_label().startswith("_child")]
    assert [line.get_xdata()[0] for line in borders if len(set(line.get_xdata())) == 1] == [5.0, 8.5, 9.5]
    assert ax.get_ylim()[1] > 33


def test_what_ended_early_and_what_failed_have_shapes_of_their_own():
    rows = [
        row(1, 0, 20.0),
        row(2, 0, 5.0, "stopped"),
        row(3, 0, 0.0, "failed"),
        row(4, 0, 0.0, "failed", stage="confirm"),
    ]
    (ax,) = charts.history_figure(rows).axes
    (stopped,), (failed,) = lines(ax, label="ended early"), lines(ax, label="failed")
    assert (stopped.get_marker(), stopped.get_xydata().tolist()) == ("v", [[2, 5]])
    assert (failed.get_marker(), failed.get_xydata().tolist()) == ("x", [[3, 0], [4, 0]])
