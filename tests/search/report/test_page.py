import base64
import re
import shlex
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest

from paramap_d2.losses import load_loss
from paramap_d2.search.report import figures
from paramap_d2.search.report.page import report_html, write_report
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation

SPACE = SearchSpace(("dense",))
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
        self.open, self.elements, self.rows, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
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

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def evaluation(number, generation=0, fitness=30.0, status="finished", space=SPACE, genome=None, **more):
    genome = np.random.default_rng(number).random(space.genes).tolist() if genome is None else genome
    values = {"position": number % 4, "seed": 0, "seconds": 60.0, "started": 1000.0 + 60 * number, **more}
    return Evaluation(generation, genome=genome, status=status, fitness=fitness, id=number, **values)


def made(tmp_path, evaluations, space=SPACE, settings=SETTINGS):
    path = tmp_path / "out" / "report.html"
    path.parent.mkdir(exist_ok=True)
    write_report(evaluations, space, settings, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def some(space=SPACE):
    rows = [evaluation(k, k // 4, 20.0 + k, space=space, metrics={"bbox/AP50": 40.0 + k}) for k in range(1, 9)]
    rows.append(evaluation(9, 2, 0.0, "diverged", space, error="loss is NaN at iteration 37", log="the end\nof it"))
    rows.append(evaluation(10, 2, 0.0, "interrupted", space))
    return rows


CASES = {
    "nothing": ([], SPACE, {}),
    "no settings": (some(), SPACE, {}),
    "a search": (some(), SPACE, SETTINGS),
    "only failures": ([evaluation(k, 0, 0.0, "failed", seconds=0.0, started=0.0) for k in (1, 2)], SPACE, SETTINGS),
    "only interrupted": ([evaluation(1, 0, 0.0, "interrupted")], SPACE, SETTINGS),
    "one": ([evaluation(1)], SPACE, SETTINGS),
    "fitness 0": ([evaluation(1, fitness=0.0)], SPACE, SETTINGS),
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
    assert "AP 28.00. Each function" in page.words
    drawn = [a["aria-label"] for tag, a in page.elements if tag == "svg" and "function" in a["aria-label"]]
    assert [label.split()[2].strip(",") for label in drawn] == list(SPACE.decode(some()[7].genome)["dense"].functions)
    scale = SPACE.decode(some()[7].genome)["dense"].grad_scale
    assert f"dense · gradient scale {scale:.4g}" in page.words
    assert figures.function_svg(
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
    rows = [evaluation(k, 0, 20.0 + k / 10, metrics={"bbox/AP50": 40.0 + k}) for k in range(1, 15)]
    rows += [evaluation(20 + s, 1, 30.0 + s, genome=genome, seed=s, metrics={"bbox/AP50": 50.0}) for s in range(3)]
    html = made(tmp_path, rows)
    page = Page(html)
    assert "The best 10 of 15 losses" in page.words
    header = page.rows.index(["#", "generation", "AP", "seeds", "AP50", "gradient scale", "file"])
    table = page.rows[header + 1 : header + 11]
    assert table[0] == ["20", "1", "31.00", "3", "50.00", "1", "loss file"]
    assert [row[:5] for row in table[1:3]] == [["14", "0", "21.40", "1", "54.00"], ["13", "0", "21.30", "1", "53.00"]]
    links = [a for tag, a in page.elements if tag == "a"]
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
    assert words[4:6] == ["SOLVER.MAX_ITER", "300"]
    assert words[6:8] == ["MODEL.PARAM_AP.LOSS", str(tmp_path / "out" / "best.json")]
    assert "paramap train" not in made(tmp_path, [])  # there is no best.json


def test_progress_failures_and_settings_are_told(tmp_path):
    html = made(tmp_path, some(), settings={**SETTINGS, "config": {f"KEY{k}": k for k in range(50)}})
    page = Page(html)
    assert "Evaluations 9 of 12" in page.words and "1 diverged; 1 interrupted" in page.words
    header = page.rows.index(["#", "generation", "status", "reason", "iterations", "time", "seed"])
    (row,) = [row for row in page.rows[header + 1 :] if row[0] == "9"]
    assert row[2] == "diverged" and row[3].startswith("loss is NaN at iteration 37")
    assert '<pre class="log" tabindex="0">the end\nof it</pre>' in html
    assert ["opts", "SOLVER.MAX_ITER 300"] in page.rows and ["population", "4"] in page.rows
    (config,) = [row for row in page.rows if row[0] == "config"]
    assert config[1].startswith("show") and "KEY49: 49" in config[1]


def test_many_failures_are_cut_to_the_latest(tmp_path):
    page = Page(made(tmp_path, [evaluation(k, 0, 0.0, "failed") for k in range(1, 61)]))
    assert "The latest 50 of 60." in page.words
    header = page.rows.index(["#", "generation", "status", "reason", "iterations", "time", "seed"])
    assert [row[0] for row in page.rows[header + 1 : header + 51]] == [str(k) for k in range(60, 10, -1)]


def test_whatever_a_proxy_says_stays_text(tmp_path):
    evil = '</pre></details><script>alert("x")</script><img src=http://example.com/x>&amp;'
    rows = [evaluation(1, 0, 0.0, "failed", error=evil, log=evil), evaluation(2)]
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
