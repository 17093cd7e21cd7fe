import base64
import re
import shlex
import sys
from html.parser import HTMLParser
from importlib import resources

import pytest
from made_searches import SPACE, made_search, row

from paramap_d2.losses import load_loss
from paramap_d2.search.confirmation import signed, verdict
from paramap_d2.search.report.functions import function_svg
from paramap_d2.search.report.page import report_html, write_report
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.status import read_search

SETTINGS = {
    "config_file": "my configs/retinanet.yaml",
    "metric": "AP",
    "generations": 3,
    "population": 4,
    "elite": 0,
    "planned": 12,
    "seed": 0,
    "algorithm": "ga",
    "workers": 2,
    "opts": ["SOLVER.MAX_ITER", "300"],
}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What the tests ask of a page: its elements, rows of tables, text; whether tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.rows, self.text, self.headings = [], [], [], [], []
        self.charts = []  # what each is called, and its words
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes_of = dict(attributes)
        self.elements.append((tag, attributes_of))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "svg":
            self.charts.append((attributes_of["aria-label"], []))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if "svg" in self.open:
            self.charts[-1][1].append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def made(tmp_path, evaluations, space=SPACE, settings=SETTINGS):
    path = tmp_path / "out" / "report.html"
    path.parent.mkdir(exist_ok=True)
    write_report(evaluations, space, settings, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def some(space=SPACE):
    rows = [row(k, k // 4, 20.0 + k, space=space, metrics={"bbox/AP50": 40.0 + k}) for k in range(1, 9)]
    rows.append(row(9, 2, 0.0, "diverged", space, error="loss is NaN at iteration 37", log="the end\nof it"))
    rows.append(row(10, 2, 0.0, "interrupted", space))
    return rows


CASES = {
    "nothing": ([], SPACE, {}),
    "no settings": (some(), SPACE, {}),
    "a search": (some(), SPACE, SETTINGS),
    "only failures": ([row(k, 0, 0.0, "failed", seconds=0.0, started=0.0) for k in (1, 2)], SPACE, SETTINGS),
    "only interrupted": ([row(1, 0, 0.0, "interrupted")], SPACE, SETTINGS),
    "one": ([row(1)], SPACE, SETTINGS),
    "fitness 0": ([row(1, fitness=0.0)], SPACE, SETTINGS),
}
for _name, _space in {
    "two heads": SearchSpace(("rpn", "roi")),
    "shared": SearchSpace(("dense",), mode="shared"),
    "fixed scale": SearchSpace(("dense",), points=1, grad_scale=2.0),
    "fixed head": SearchSpace(("roi",), fixed={"rpn": load_loss("fasterrcnn-coco")["rpn"]}),
}.items():
    CASES[_name] = (some(_space), _space, {**SETTINGS, "space": _space.describe()})


@pytest.mark.parametrize("case", CASES)
def test_the_page_needs_nothing_beside_it(tmp_path, case):
    html = made(tmp_path, *CASES[case])
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("href", "src", "xlink:href"):
                assert value.startswith(("#", "data:"))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    variables = set(re.findall(r"var\(--(\w+)\)", html))
    for scheme in re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL):
        assert variables <= set(re.findall(r"--(\w+):", scheme))
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_the_best_loss_is_drawn_and_told(tmp_path):
    page = Page(made(tmp_path, some()))
    assert "Of #8, with AP 28.00. Each function" in page.words
    drawn = [a["aria-label"] for tag, a in page.elements if tag == "svg" and "function" in a["aria-label"]]
    assert [label.split()[2].strip(":") for label in drawn] == list(SPACE.decode(some()[7].genome)["dense"].functions)
    scale = SPACE.decode(some()[7].genome)["dense"].grad_scale
    assert f"dense · gradient scale {scale:.4g}" in page.words
    assert function_svg(
        "positive_weight", SPACE.decode(some()[7].genome)["dense"].functions["positive_weight"], "dense-positive_weight"
    ) in made(tmp_path, some())


def test_fixed_heads_are_drawn_and_have_no_genes(tmp_path):
    page = Page(made(tmp_path, *CASES["fixed head"]))
    assert "rpn · gradient scale 1.695 (not searched)" in page.words
    labels = [a["aria-label"] for tag, a in page.elements if tag == "svg"]
    assert sum(label.startswith("The function") for label in labels) == 10
    assert [label for label in labels if "coordinates" in label] == ["Parallel coordinates of the genes of head roi"]


def test_the_table_of_the_ten_best(tmp_path):
    genome = [0.5] * SPACE.genes
    rows = [row(k, 0, 20.0 + k / 10, metrics={"bbox/AP50": 40.0 + k}) for k in range(1, 15)]
    rows += [row(20 + s, 1, 30.0 + s, genome=genome, seed=s, metrics={"bbox/AP50": 50.0}) for s in range(3)]
    html = made(tmp_path, rows)
    page = Page(html)
    assert "The best 10 of 15 losses" in page.words
    header = page.rows.index(["loss", "rank", "generation", "AP", "seeds", "AP50", "gradient scale", "file"])
    table = page.rows[header + 1 : header + 11]
    assert table[0] == ["#20", "1", "1", "31.00", "3", "50.00", "1", "loss file 20"]
    assert [cells[:6] for cells in table[1:3]] == [
        ["#14", "2", "0", "21.40", "1", "54.00"],
        ["#13", "3", "0", "21.30", "1", "53.00"],
    ]
    best, *links = [a for tag, a in page.elements if tag == "a"]
    assert best["download"] == "best.json" and best["href"] == links[0]["href"]
    assert len(links) == 10 and links[1]["download"] == "loss_14.json"
    loss_file = tmp_path / links[1]["download"]
    loss_file.write_bytes(base64.b64decode(links[1]["href"].removeprefix("data:application/json;base64,")))
    loaded, wanted = load_loss(loss_file)["dense"], SPACE.decode(rows[13].genome)["dense"]
    assert loaded.functions == wanted.functions and loaded.grad_scale == wanted.grad_scale


def test_the_command_trains_with_the_best_loss(tmp_path):
    html = made(tmp_path, some())
    command = re.search(r"<pre>(paramap .*?)</pre>", html)[1].replace("&#39;", "'")
    words = shlex.split(command)
    assert words[:2] == ["paramap", "train"]
    assert words[2:4] == ["--config-file", "my configs/retinanet.yaml"]
    assert words[4:6] == ["MODEL.PARAM_AP.LOSS", str(tmp_path / "out" / "best.json")]
    assert "paramap train" not in made(tmp_path, [])  # there is no best.json


def test_progress_failures_and_settings_are_told(tmp_path):
    html = made(tmp_path, some(), settings={**SETTINGS, "config": {f"KEY{k}": k for k in range(50)}})
    page = Page(html)
    assert "Evaluations 9 of 12" in page.words and "1 diverged; 1 interrupted" in page.words
    header = page.rows.index(["#", "generation", "status", "reason", "iterations", "time", "seed"])
    (told,) = [cells for cells in page.rows[header + 1 :] if cells[0] == "9"]
    assert told[2] == "diverged" and told[3].startswith("loss is NaN at iteration 37")
    assert ">the end\nof it</pre>" in html
    assert ["opts", "SOLVER.MAX_ITER 300"] in page.rows and ["population", "4"] in page.rows
    (config,) = [cells for cells in page.rows if cells[0] == "config"]
    assert config[1].startswith("show config") and "KEY49: 49" in config[1]


def test_many_failures_are_cut_to_the_latest(tmp_path):
    page = Page(made(tmp_path, [row(k, 0, 0.0, "failed") for k in range(1, 61)]))
    assert "The latest 50 of 60." in page.words
    header = page.rows.index(["#", "generation", "status", "reason", "iterations", "time", "seed"])
    assert [cells[0] for cells in page.rows[header + 1 : header + 51]] == [str(k) for k in range(60, 10, -1)]


def test_whatever_a_proxy_says_stays_text(tmp_path):
    evil = '</pre></details><script>alert("x")</script><img src=http://example.com/x>&amp;'
    rows = [row(1, 0, 0.0, "failed", error=evil, log=evil), row(2)]
    settings = {**SETTINGS, "config_file": f"{evil}.yaml", "opts": [evil], "metric": '"><b>AP</b>'}
    page = Page(made(tmp_path, rows, settings=settings))
    assert not [tag for tag, _ in page.elements if tag in ("script", "img", "b")]
    assert evil in page.words


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(some(), SPACE, SETTINGS, path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_same_search_gives_the_same_page(tmp_path):
    assert report_html(some(), SPACE, SETTINGS, tmp_path) == report_html(some(), SPACE, SETTINGS, tmp_path)


def test_the_template_is_package_data():
    setup = (resources.files("paramap_d2") / ".." / "setup.py").read_text()
    assert re.search(r'"paramap_d2\.search\.report": \["\*\.jinja"', setup)
    assert (resources.files("paramap_d2.search.report") / "report.html.jinja").is_file()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a whole search with finals, confirmation, looks and failures."""
    folder = made_search(tmp_path_factory.mktemp("made") / "search", proxies=48)
    evaluations, settings = read_search(folder)
    write_report(evaluations, SPACE, settings, folder / "report.html")
    return Page((folder / "report.html").read_text()), evaluations, settings


def test_the_gain_the_functions_and_the_command_come_first(whole):
    page, evaluations, settings = whole
    found = verdict(evaluations, settings)
    headings = [text for text in page.text if text in page.headings]
    assert headings[2:5] == ["Gain over the start", "The functions", "Train with it"]
    low, high = map(signed, found.interval)
    assert f"{signed(found.gain)} AP over linear, 95 % interval {low} to {high}" in page.words


def test_a_start_that_nothing_challenged_is_not_said_to_be_confirmed(tmp_path):
    rows = [row(1, 0, 30.0)]
    genome = rows[0].genome
    confirmation = {"challenger": genome, "start": genome, "role": "best finalist", "seeds": 3, "iterations": None}
    page = made(tmp_path, rows, settings={**SETTINGS, "initial": [genome], "confirmation": confirmation})
    assert "nothing was confirmed from fresh seeds" in " ".join(page.split())


def test_the_losses_that_the_search_began_with_are_named_in_every_table_and_chart(whole):
    page, evaluations, settings = whole
    assert page.words.count("linear") > 12
    cells = [cells[0] for cells in page.rows]
    assert {"linear", "other/best"} <= set(cells)  # among the losses, whatever their rank
    for column in ("linear", "other/best"):
        assert any(column in cells for cells in page.rows if cells[0] == "gene")
    (classes,) = [cells for cells in page.rows if cells[:2] == ["class", "linear"]]
    assert classes[3] == "difference"
    charts = [svg for svg in page.charts if "every" in svg[0] or "way" in svg[0] or "Parallel" in svg[0]]
    assert len(charts) == 5
    assert all("linear" in " ".join(words) for _, words in charts)


def test_every_table_has_a_caption_and_headings_and_scrolls_by_key(whole):
    page, *_ = whole
    tags = [tag for tag, _ in page.elements]
    assert tags.count("main") == 1 and tags.count("table") == tags.count("caption") > 8
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0" and attributes["role"] == "region" and attributes["aria-label"]
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]


def test_versions_machine_and_importance_are_told(whole):
    page, evaluations, _ = whole
    (header,) = [cells for cells in page.rows if cells[:2] == ["evaluations", "how many"]]
    assert header[2:] == ["torch", "detectron2", "paramap_d2", "machine", "threads each"]
    assert page.rows[page.rows.index(header) + 1][2:] == ["2.14.1", "0.6", "0.2.0", "a processor", "2"]
    assert "A random forest that has seen two thirds of the" in page.words


def test_without_scikit_learn_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert "needs scikit-learn: pip install &#39;paramap_d2[analysis]&#39;" in made(tmp_path, some())
