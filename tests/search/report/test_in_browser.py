"""Pages as a reader has them: axe-core in Chromium, on small screens and in the dark. ``make test-page`` runs it."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest
from made_searches import SPACE, made_search

from paramap_d2.files import write_whole
from paramap_d2.search import server
from paramap_d2.search.comparison import read_searches
from paramap_d2.search.report import live
from paramap_d2.search.report.compare import compare_html
from paramap_d2.search.report.live import LivePage
from paramap_d2.search.report.page import report_html, write_report
from paramap_d2.search.status import progress, read_search
from paramap_d2.search.store import Store

BROWSER = os.environ.get("PARAMAP_BROWSER")
pytestmark = pytest.mark.skipif(not BROWSER, reason="PARAMAP_BROWSER names no Chromium; make test-page looks for one")

PAGES = ("report", "nothing", "compare", "live")
SCREENS = (  # axe takes its time on a large page
    ("report", 1300, "light"),
    ("report", 360, "dark"),
    ("nothing", 500, "light"),
    ("compare", 500, "dark"),
    ("live", 500, "light"),
)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One of each kind of page."""
    folder = tmp_path_factory.mktemp("pages")
    whole = made_search(folder / "ga", 64)
    unconfirmed = made_search(folder / "cmaes", 48, "cmaes", confirm=0, final_iterations=None)
    evaluations, settings = read_search(whole)
    write_report(evaluations, SPACE, settings, folder / "report.html")
    (folder / "nothing.html").write_text(report_html([], SPACE, {}, folder))
    (folder / "compare.html").write_text(compare_html(read_searches([whole, unconfirmed])))
    say_running(unconfirmed, 30)
    (folder / "live.html").write_text(LivePage(unconfirmed).page())
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


@pytest.fixture
def opened(folder, browser):
    """A function that opens a page on a screen, with all that is folded away unfolded."""
    pages = []

    def open_on(name, width, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.goto((folder / f"{name}.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
        return page

    yield open_on
    for page in pages:
        page.close()


@pytest.mark.parametrize("name, width, scheme", SCREENS)
def test_axe_finds_nothing(opened, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(opened(name, width, scheme), options={"runOnly": RULES}).response
    assert len(found["passes"]) > 15
    assert not [
        (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]
    ]


SIZES = """() => [...document.querySelectorAll("main *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim()))
    .map((e) => {
        const m = e.ownerSVGElement ? e.getScreenCTM() : { a: 1, b: 0 };
        return [parseFloat(getComputedStyle(e).fontSize) * Math.hypot(m.a, m.b), e.textContent.slice(0, 40)];
    })"""


@pytest.mark.parametrize("width", [500, 360])
@pytest.mark.parametrize("name", PAGES)
def test_text_stays_readable_and_nothing_is_wider_than_a_small_screen(opened, name, width):
    page = opened(name, width)
    sizes = page.evaluate(SIZES)
    assert len(sizes) > 3 and min(sizes)[0] >= 9, min(sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


AREAS = """() => {
    window.areas = [...document.querySelectorAll("main *")].filter(
        (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth);
    return [window.areas.length, document.querySelectorAll("a, summary, button, [tabindex]").length];
}"""


@pytest.mark.parametrize("name", PAGES)
def test_everything_that_scrolls_can_be_reached_by_key_and_shows_it(opened, name):
    page = opened(name, 360)
    areas, stops = page.evaluate(AREAS)
    assert areas or name == "nothing"
    reached = set()
    for _ in range(stops + 1):
        page.keyboard.press("Tab")
        index, outline = page.evaluate(
            "[window.areas.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        if index >= 0:
            assert outline != "none"
            reached.add(index)
    assert reached == set(range(areas))


def say_running(folder, iteration):
    """As a search on another host that lives, with one training."""
    training = {"name": "g009_000_s0", "worker": 0, "started": time.time() - 60, "generation": 9, "position": 0}
    training |= {"genome": [0.5], "seed": 0, "stage": "search", "attempt": 1}
    told = {"state": "running", "why": "", "host": "another.host", "pid": 1, "begun": time.time() - 600}
    told |= {"heartbeat": time.time(), "generation": 9, "running": [training]}
    write_whole(folder / "status.json", json.dumps(told).encode())
    (folder / "running").mkdir(exist_ok=True)
    now = {"iteration": iteration, "planned": 100, "loss": 0.5, "curve": [[25, 12.5]], "phase": "training"}
    write_whole(folder / "running" / "g009_000_s0.json", json.dumps({**now, "time": time.time()}).encode())


def test_the_live_page_stays_fresh_and_keeps_what_its_reader_did(tmp_path, browser, monkeypatch):
    from playwright.sync_api import expect

    monkeypatch.setattr(live, "REST", 0)  # or a busy machine redraws the report too late

    search = made_search(tmp_path / "out", 16)
    say_running(search, 30)
    page = browser.new_page(viewport={"width": 900, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    with server.server(search, port=0) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        page.goto(server.address(serving))
        assert "30 of 100" in page.inner_text("#live") and "running on another.host" in page.inner_text("#live")
        page.evaluate("document.querySelector('h1').mine = true")
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        page.evaluate("document.querySelector('#live [tabindex]').focus()")
        opened, loads = page.locator("details[open]").count(), page.evaluate("performance.timeOrigin")
        done = progress(*read_search(search)).done
        say_running(search, 60)
        expect(page.locator("#live")).to_contain_text("60 of 100", timeout=20000)
        with Store(search / "search.db") as store:
            first = store.evaluations()[0]
            store.add(replace(first, generation=9, status="failed", cause="killed", error="made up on the way"))
        expect(page.locator("#live")).to_contain_text("made up", timeout=20000)
        expect(page.locator("main > :not(#live)", has_text="made up")).not_to_have_count(0, timeout=20000)
        assert f"{done + 1} of" in page.inner_text("#live")
        assert page.evaluate("document.querySelector('h1').mine") and page.evaluate("performance.timeOrigin") == loads
        assert page.locator("details[open]").count() >= opened > 0
        assert page.evaluate("document.activeElement.closest('#live') !== null")
        assert page.inner_text("#connection") == "" and not errors
        serving.shutdown()
        thread.join()
    expect(page.locator("#connection")).to_contain_text("has ended", timeout=20000)
    assert "60 of 100" in page.inner_text("#live")
    page.close()
