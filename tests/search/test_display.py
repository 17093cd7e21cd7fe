import shutil

import pytest
from rich.console import Console

from paramap_d2.search.display import Curves, ProgressBar, ready_at
from paramap_d2.search.evolution import GenerationEnd
from paramap_d2.search.store import FINISHED, Evaluation
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
    bar.show(SearchProgress(0, 2, 10, 31.5, 2))
    console.print(bar._bar.get_renderable())
    text = console.export_text()
    assert "8 h 00 min" in text and "AP 31.50" in text and "generation 0" in text


def end(number, fitnesses):
    rows = [Evaluation(number, place, [0.5], 0, FINISHED, f) for place, f in enumerate(fitnesses)]
    failed = Evaluation(number, 9, [0.5], 0, "diverged", 0.0)
    return GenerationEnd(number, [*rows, failed], None, True)


def test_means_count_what_the_logs_mean_counts(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = Curves(tmp_path)
    curves.add(end(0, [10.0, 30.0]))
    curves.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Scalars("generation/mean")[0].value == 20.0
    assert read.Scalars("generation/failures")[0].value == 1.0


def test_a_folder_that_is_gone_is_not_the_end(tmp_path):
    folder = tmp_path / "tensorboard"
    curves = Curves(folder)
    shutil.rmtree(folder)
    for number in range(3):
        curves.add(end(number, [1.0]))
    curves.close()


def test_a_folder_that_cannot_be_is_told(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file")
    curves = Curves(tmp_path / "tensorboard")
    curves.add(end(0, [1.0]))
    curves.close()
    assert "are left out from here on" in caplog.text


def test_a_full_disk_is_told_once(tmp_path, caplog):
    curves = Curves(tmp_path)
    curves._file.close()
    curves._file = open("/dev/full", "wb", buffering=0)
    for number in range(3):
        curves.add(end(number, [1.0]))
    curves.close()
    assert caplog.text.count("No space left on device") == 1
