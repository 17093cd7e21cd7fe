import re
import shutil
import sqlite3

import pytest

from paramap_d2.cli import run
from paramap_d2.search.store import Evaluation, Store


def evaluation(position, fitness, status="finished", **more):
    return Evaluation(
        0, position, [position / 10] * 3, 0, status, fitness, seconds=60.0, started=1e9 + 60 * position, **more
    )


@pytest.fixture
def search(tmp_path):
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"generations": 2, "planned": 8, "workers": 1, "metric": "AP50"})
        store.add(evaluation(0, 31.5))
        store.add(evaluation(1, 33.25))
        store.add(evaluation(2, 0.0, "diverged", error="loss is NaN at iteration 12"))
    return tmp_path


def test_tells_how_far_a_search_is(search, capsys):
    assert run("status", [str(search)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "search       dead",  # or of another version: it has no lock, and is not done
        "evaluations  3 of 8 (38%): 2 finished, 1 failed",
        "generation   0, the last will be 1",
        "best so far  AP50 33.25, evaluation 2, generation 0",
        "compute      3 min in 3 min: workers 100% busy",
        "time left    about 5 min",
        "diverged     1 × loss is NaN at iteration 12",
        f"next         paramap evolve --resume --output-dir {search}",
    ]


def test_reads_while_the_search_writes_and_changes_nothing(search, capsys):
    with Store(search / "search.db") as store:
        store.add(evaluation(3, 40.0))
        store._db.execute("BEGIN IMMEDIATE")  # in the midst of writing a row
        before = {p.name: p.read_bytes() for p in search.iterdir() if p.suffix != ".db-shm"}
        assert run("status", [str(search)]) == 0
        assert "4 of 8" in capsys.readouterr().out
        after = {p.name: p.read_bytes() for p in search.iterdir() if not p.name.endswith("-shm")}
        assert {name: content for name, content in before.items() if not name.endswith("-shm")} == after
        store._db.execute("ROLLBACK")


def test_a_new_store_is_no_error(tmp_path, capsys):
    Store(tmp_path / "search.db").close()
    assert run("status", [str(tmp_path)]) == 0
    assert "best so far  none" in capsys.readouterr().out


def refused(folder, capsys):
    assert run("status", [str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("error: ") and "search.db" in output.err
    return output.err


def test_missing(tmp_path, capsys):
    assert "does not exist" in refused(tmp_path, capsys)
    assert "does not exist" in refused(tmp_path / "nowhere", capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_not_a_store(tmp_path, capsys, content):
    (tmp_path / "search.db").write_bytes(content)
    assert "is not a readable search store" in refused(tmp_path, capsys)
    assert (tmp_path / "search.db").read_bytes() == content


def test_corrupt_within(search, capsys):
    path = search / "search.db"
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'evaluations'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    assert "is not a readable search store" in refused(search, capsys)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evaluations SET genome = 'not json'",
        "ALTER TABLE evaluations DROP COLUMN metrics",
        "DROP TABLE evaluations",
        "UPDATE settings SET value = '{' WHERE key = 'metric'",
        "UPDATE settings SET value = 'x' WHERE key = 'schema'",
    ],
)
def test_broken_rows_and_tables(search, capsys, statement):
    with sqlite3.connect(search / "search.db") as db:
        db.execute(statement)
    db.close()
    assert "is not a readable search store" in refused(search, capsys)


def test_a_newer_store(search, capsys):
    with sqlite3.connect(search / "search.db") as db:
        db.execute("UPDATE settings SET value = '99' WHERE key = 'schema'")
    db.close()
    assert "newer version" in refused(search, capsys)


def test_a_store_that_was_copied(search, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(search / "search.db", copy)
    assert run("status", [str(copy)]) == 0


@pytest.mark.parametrize("how", [["--serve", "0"], ["--watch"]])
def test_ctrl_c_is_the_way_to_end_it(search, capsys, monkeypatch, how):
    def ctrl_c(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("socketserver.BaseServer.serve_forever", ctrl_c)
    monkeypatch.setattr("paramap_d2.search.watch.watch", ctrl_c)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    before = sorted(p.name for p in search.iterdir())
    assert run("status", [str(search), *how]) == 0
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in search.iterdir()) == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--serve", "OUT"], "--serve: a port is a number, not 'OUT'; OUT comes before --serve"),
        (["OUT", "--serve", "70000"], "--serve: a port is from 0 .any that is free. to 65535, not 70000"),
        (["OUT", "--watch", "--serve"], "--serve: not allowed with argument --watch"),
        (["OUT", "--host", "0.0.0.0"], "--host is an option of --serve"),
        (["nowhere", "--serve"], "nowhere/search.db does not exist"),
        (["nowhere", "--watch"], "nowhere/search.db does not exist"),
    ],
)
def test_options_that_do_not_fit(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert run("status", options) == 2
    errors = capsys.readouterr().err
    assert re.search(message, errors) and errors.count("\n") == 1
