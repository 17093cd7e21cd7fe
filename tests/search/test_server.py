"""The live page over HTTP."""

import os
import shutil
import threading
import urllib.error
import urllib.request

import pytest

from paramap_d2.errors import UserError
from paramap_d2.search import server
from paramap_d2.search.report import live
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation, Store, StoreError

SPACE = SearchSpace(("dense",), points=1, mode="shared", grad_scale=1.0)


def evaluation(position, fitness, status="finished", **more):
    return Evaluation(0, position, [0.5, position / 8], 0, status, fitness, seconds=60.0, started=1e9, **more)


DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy the environment names."""


@pytest.fixture
def search(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with Store(folder / "search.db") as store:
        store.write_settings({"planned": 8, "metric": "AP50", "space": SPACE.describe()})
        store.add(evaluation(0, 31.5))
    return folder


@pytest.fixture
def ask(search):
    with server.server(search, port=0) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()

        def get(path, method="GET"):
            request = urllib.request.Request(server.address(serving) + path, method=method)
            return DIRECTLY.open(request, timeout=20)

        yield get
        serving.shutdown()
        thread.join()


def text(reply):
    return reply.read().decode()


def test_the_page_is_the_report_with_what_goes_on_above_it(search, ask):
    page = ask("")
    assert (
        page.headers["Cache-Control"] == "no-store" and "default-src 'none'" in page.headers["Content-Security-Policy"]
    )
    content = text(page)
    for once in ('<section id="live"', 'id="connection"', "<script>", "<main", "</h1>", "<h1"):
        assert content.count(once) == 1, once
    assert content.index("</h1>") < content.index('id="live"') < content.index("The functions")
    assert "src=" not in content and 'href="http' not in content  # nothing from elsewhere
    assert f"paramap evolve --resume --output-dir {search}" in content and ">dead</span>" in content
    assert int(ask("", "HEAD").headers["Content-Length"]) == len(content.encode())
    assert os.listdir(search) == ["search.db"]


def test_it_is_fresh_and_no_report_is_drawn_twice(search, ask, monkeypatch):
    drawn = []
    report = "<html><head></head><body><main></main></body></html>"
    monkeypatch.setattr(live, "report_html", lambda *args: drawn.append(1) or report)
    before = text(ask("live"))
    assert text(ask("live")) == before and "1 of 8 evaluations" in before
    text(ask("")), text(ask(""))
    with Store(search / "search.db") as store:
        store.add(evaluation(1, 0.0, "diverged", error="<b>loss</b> is NaN"))
        after = text(ask("live"))
        assert "2 of 8 evaluations" in after and "&lt;b&gt;loss&lt;/b&gt; is NaN" in after
        stamps = [page.partition('data-report="')[2].partition('"')[0] for page in (before, after, text(ask("")))]
    assert stamps[0] != stamps[1] == stamps[2]
    assert len(drawn) == 2


def test_a_report_that_takes_long_is_drawn_seldom(search, monkeypatch):
    clock, drawn = [0.0], []

    def draw(*_):
        drawn.append(1)
        clock[0] += 5
        return "<html><head></head><body><main></main></body></html>"

    monkeypatch.setattr(live, "report_html", draw)
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    page = live.LivePage(search)
    before = page.page()
    with Store(search / "search.db") as store:
        store.add(evaluation(1, 33.0))
        stamp = 'data-report="' + before.partition('data-report="')[2].partition('"')[0] + '"'
        now = page.now()
        assert "2 of 8 evaluations" in now and stamp in now  # told at once, and no reason to ask for the page again
        page.page()
        assert len(drawn) == 1
        clock[0] += live.REST * 5
        assert stamp not in page.now()
        page.page()
        page.page()
    assert len(drawn) == 2


def test_nothing_else_is_served(ask):
    for path in ("search.db", "../search.db", "live/", "status.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(path)
    with pytest.raises(urllib.error.HTTPError, match="501"):
        ask("", "POST")


def test_a_search_that_goes_away_is_told_and_comes_back(search, ask):
    shutil.move(search, f"{search}_")
    with pytest.raises(urllib.error.HTTPError, match="503") as raised:
        ask("live")
    assert "search.db does not exist" in text(raised.value)
    shutil.move(f"{search}_", search)
    assert "1 of 8 evaluations" in text(ask("live"))


def test_ports(search):
    with server.server(search, port=0) as serving:
        taken = serving.server_address[1]
        with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1, port {taken}: "):
            server.server(search, port=taken)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "PORT", taken)
            with server.server(search) as other:
                assert other.server_address[1] != taken
    with pytest.raises(UserError, match="cannot serve at nowhere.invalid"):
        server.server(search, "nowhere.invalid", 0)


def test_no_search(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        server.server(tmp_path, port=0)
