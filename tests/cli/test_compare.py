"""``paramap compare`` and ``paramap report``, which read stores and write pages."""

import pytest

from paramap_d2.cli import run
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation, Store

SPACE = SearchSpace(("dense",), points=1, mode="shared")


@pytest.fixture
def searches(tmp_path):
    for name, fitness in (("one", 20.0), ("other", 30.0)):
        (tmp_path / name).mkdir()
        with Store(tmp_path / name / "search.db") as store:
            store.write_settings({"space": SPACE.describe(), "metric": "AP", "algorithm": name, "config": {"A": name}})
            store.add(Evaluation(0, 0, SPACE.identity(), 0, "finished", fitness, seconds=60.0))
    return tmp_path


def test_compare_prints_a_table_and_writes_a_page(searches, monkeypatch, capsys):
    monkeypatch.chdir(searches)
    assert run("compare", ["one", "other"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["search", "algorithm", "proxies"] and printed[-1] == "compare.html"
    assert [line.split()[:5] for line in printed[2:4]] == [
        ["one", "one", "1", "AP", "20.00"],
        ["other", "other", "1", "AP", "30.00"],
    ]
    page = (searches / "compare.html").read_text()
    assert "2 searches compared" in page and "AP 30.00" in page and "<script" not in page
    assert "Settings that are not the same" in page and '<th scope="row">A</th><td>one</td><td>other</td>' in page
    assert page.count("<svg") == 2 and page.count('"over-') > 2
    assert run("compare", ["one", "nowhere"]) == 2 and run("compare", ["one", "one"]) == 2
    assert run("compare", ["one", "other", "--output", "no/where.html"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "no search there" in errors[0] and "named twice" in errors[1]
    assert "cannot write no/where.html" in errors[2]


def test_different_figures_are_not_compared_silently(searches, monkeypatch):
    with Store(searches / "one" / "search.db") as store:
        store.write_settings({"metric": "AP50"})
    monkeypatch.chdir(searches)
    assert run("compare", ["one", "other", "--output", "page.html"]) == 0
    assert "not the same figure (AP, AP50)" in (searches / "page.html").read_text()


def test_report_renders_the_page_anew(searches, capsys):
    folder = searches / "one"
    assert run("report", [str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = (folder / "report.html").read_text()
    assert "AP, the highest seen" in page and f"MODEL.PARAM_AP.LOSS {folder / 'best.json'}" in page
    with Store(folder / "search.db") as store:
        store.add(Evaluation(0, 1, [0.25] * SPACE.genes, 0, "finished", 44.0))
    assert run("report", [str(folder), "--output", str(searches / "page.html")]) == 0
    fresh = (searches / "page.html").read_text()
    assert "44.00" in fresh and f"MODEL.PARAM_AP.LOSS {folder / 'best.json'}" in fresh
    assert (folder / "report.html").read_text() == page
    assert run("report", [str(searches)]) == 2 and "no search there" in capsys.readouterr().err


def test_a_search_that_was_ended_as_it_began_is_one_line_everywhere(tmp_path, capsys):
    with Store(tmp_path / "search.db"):
        pass
    out = str(tmp_path)
    export = ["export", [out, "--format", "csv", "--output", str(tmp_path / "rows.csv")]]
    for command, words in (["report", [out]], export, ["enqueue", [out, "retinanet-coco"]]):
        assert run(command, words) == 2
        assert f"{out} has not begun to search" in capsys.readouterr().err
    assert run("status", [out]) == 0 and {file.name for file in tmp_path.iterdir()} == {"search.db"}
