"""The picture of AP over iterations."""

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search.report.over_iterations import draw_curves


def test_a_line_for_each_loss_and_the_range_of_its_seeds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "paramap_d2.search.report.over_iterations.save_figure", lambda figure, path: drawn.append(figure)
    )
    draw_curves(
        {"one": [[(10, 20.0), (20, 30.0)]], "two": [[(10, 5.0), (20, 9.0)], [(10, 7.0), (20, 9.5)]]}, "x", "val"
    )
    (ax,) = drawn[0].axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
    assert lines == {"one": ([10, 20], [20.0, 30.0]), "two": ([10, 20], [6.0, 9.25])}
    (band,) = ax.collections
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == (5.0, 9.5) and ax.get_ylabel() == "AP on val"


def test_files(tmp_path):
    draw_curves({"one": [[(10, 20.0)]]}, tmp_path / "curves.png", "val")
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    with pytest.raises(UserError, match="must end in one of"):
        draw_curves({}, tmp_path / "curves.abc", "val")


def test_no_two_of_sixteen_lines_look_alike(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "paramap_d2.search.report.over_iterations.save_figure", lambda figure, path: drawn.append(figure)
    )
    draw_curves({str(k): [[(10, 20.0), (20, 30.0 + k)]] for k in range(16)}, "x", "val")
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn[0].axes[0].lines]
    assert len(set(looks)) == 16
