import pytest
from rich.console import Console

from paramap_d2.search.display import ProgressBar, ready_at
from paramap_d2.search.trainings import SearchProgress


@pytest.mark.parametrize(
    "made, left, expected", [(0, 10, None), (2, 6, 1000.0 + 3 * 7200), (4, 0, 1000.0), (1, 1, 1000.0 + 7200)]
)
def test_the_time_left_is_at_the_pace_so_far(made, left, expected):
    begin = 1000.0 - 7200
    assert ready_at(begin, 1000.0, made, left) == expected


def test_the_bar_shows_time_left_with_proxies_of_hours(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("paramap_d2.search.display.time.monotonic", lambda: clock[0])
    console = Console(force_terminal=True, width=120, record=True)
    bar = ProgressBar(console, "AP", 10)
    clock[0] = 7200.0
    bar.show(SearchProgress(0, 2, 10, 31.5, 2, trained=2.0, left=8.0))
    console.print(bar._bar.get_renderable())
    text = console.export_text()
    assert "8 h 00 min" in text and "AP 31.50" in text and "generation 0" in text
    for stage, named in (("repeat", "generation 3"), ("final", "final trainings"), ("confirm", "confirming trainings")):
        generation = 3 if stage == "repeat" else None
        bar.show(SearchProgress(generation, 8, 10, 31.5, 8, stage=stage, trained=8.0, left=4.0))
        console.print(bar._bar.get_renderable())
        text = console.export_text()
        assert named in text and "1 h 00 min" in text  # 4 lengths of a proxy at 2 h for 8
