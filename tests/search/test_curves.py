import shutil

import pytest
from made_searches import SPACE, row
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from paramap_d2.search.curves import Curves
from paramap_d2.search.evolution import GenerationEnd
from paramap_d2.search.store import FINISHED, Evaluation


def end(number, fitnesses):
    rows = [Evaluation(number, place, [0.5], 0, FINISHED, f) for place, f in enumerate(fitnesses)]
    failed = Evaluation(number, 9, [0.5], 0, "diverged", 0.0)
    return GenerationEnd(number, [*rows, failed], None, True)


def test_means_count_what_the_logs_mean_counts(tmp_path):
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


ROWS = [
    row(1, 0, 20.0, metrics={"bbox/AP": 20.0, "bbox/AP50": 40.0}, seconds=60.0),
    row(2, 0, 0.0, "diverged"),
    row(3, 0, 5.0, "stopped"),
    row(4, 0, 22.0, stage="repeat", seed=1),
    row(5, 0, 30.0, stage="final"),
    row(6, 0, 31.0, stage="confirm", genome=row(5).genome, seed=1),
    row(7, 0, 28.0, stage="confirm", genome=row(1).genome, seed=1),
    row(8, 0, 32.0, stage="confirm", genome=row(5).genome, seed=2),
    row(9, 1, 25.0),
    row(10, 1, 33.0, stage="confirm", seed=1),  # another centre, of a search that went on
]


def test_every_training_is_a_point_by_its_stage(tmp_path):
    curves = Curves(tmp_path, "AP75", SPACE.gene_names, {tuple(ROWS[0].genome): "linear"})
    curves.follow(ROWS[:4])
    curves.follow(ROWS[4:])
    curves.close()
    assert curves.last == 10
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    points = {tag: [(p.step, p.value) for p in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert points == {
        "proxy/AP75": [(1, 20.0), (4, 22.0), (9, 25.0)],
        "proxy/AP50": [(1, 40.0)],
        "proxy/seconds": [(1, 60.0), (4, 60.0), (9, 60.0)],
        "final/AP75/centre": [(0, 30.0)],
        "final/seconds/centre": [(0, 60.0)],
        "confirm/AP75/centre": [(0, 31.0), (1, 32.0)],
        "confirm/seconds/centre": [(0, 60.0), (1, 60.0)],
        "confirm/AP75/centre 2": [(0, 33.0)],
        "confirm/seconds/centre 2": [(0, 60.0)],
        "confirm/AP75/linear": [(0, 28.0)],
        "confirm/seconds/linear": [(0, 60.0)],
    }


def test_hparams_shows_the_genes_of_finished_proxies(tmp_path):
    """By TensorBoard's own reader of many runs, told twice: a resumed search tells all of it again."""
    for _ in range(2):
        curves = Curves(tmp_path, "AP", SPACE.gene_names)
        curves.follow(ROWS)
        curves.close()
    read = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    read.Reload()
    assert sorted(read.Runs()) == [".", "losses/00001", "losses/00009"]
    found = read.SummaryMetadata("losses/00001", SESSION_START_INFO_TAG)
    session = HParamsPluginData.FromString(found.plugin_data.content).session_start_info
    genes = {name: value.number_value for name, value in session.hparams.items()}
    assert genes == pytest.approx({"generation": 0, **dict(zip(SPACE.gene_names, ROWS[0].genome, strict=True))})
    assert read.SummaryMetadata("losses/00001", EXPERIMENT_TAG)
    assert [(p.step, p.value) for p in read.Scalars("losses/00001", "loss/AP")] == [(0, 20.0)]
    assert read.Scalars("losses/00001", "loss/AP50")[0].value == 40.0
