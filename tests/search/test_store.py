import json
import sqlite3
from dataclasses import replace

import pytest

from paramap_d2.search import store as store_module
from paramap_d2.search.store import FINISHED, Evaluation, Store, StoreError


def evaluation(generation=0, position=0, fitness=1.0, status=FINISHED, **more):
    return Evaluation(generation, position, [0.1, 1 / 3], 7, status, fitness, **more)


def test_rows_come_back_as_they_were_added(tmp_path):
    rows = [
        evaluation(0, 0, 39.25, metrics={"bbox/AP": 39.25}, seconds=1.5, iterations=100, started=5.25, worker=1),
        evaluation(0, 1, 0.0, "failed", error="out of memory", log="line\nline «ü»"),
    ]
    with Store(tmp_path / "search.db") as store:
        added = [store.add(row) for row in rows]
        assert [row.id for row in added] == [1, 2]
        assert store.evaluations() == added
    with Store(tmp_path / "search.db", readonly=True) as store:
        assert store.evaluations() == added
        assert store.evaluations()[0].genome == [0.1, 1 / 3]


def test_a_row_is_there_for_other_processes_at_once(tmp_path):
    with Store(tmp_path / "search.db") as store:
        with Store(tmp_path / "search.db", readonly=True) as reader:
            assert reader.evaluations() == []
            added = store.add(evaluation())
            assert reader.evaluations() == []  # as it was
            with pytest.raises(StoreError, match="readonly"):
                reader.add(evaluation())
        with Store(tmp_path / "search.db", readonly=True) as reader:
            assert reader.evaluations() == [added]


def test_settings(tmp_path):
    with Store(tmp_path / "search.db") as store:
        assert store.settings() == {}
        store.write_settings({"seed": 3, "space": {"heads": ["dense"]}})
        store.write_settings({"generations": 4})
        assert store.settings() == {"seed": 3, "space": {"heads": ["dense"]}, "generations": 4}


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 20, b""])
def test_unreadable_files_are_left_alone(tmp_path, content):
    path = tmp_path / "search.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a readable search store"):
        Store(path, readonly=True)
    assert path.read_bytes() == content


def test_another_database(tmp_path):
    path = tmp_path / "search.db"
    sqlite3.connect(path).execute("CREATE TABLE cats (name)").connection.commit()
    with pytest.raises(StoreError, match="not a readable search store"):
        Store(path, readonly=True)


def test_missing(tmp_path):
    with pytest.raises(StoreError, match="no search there"):
        Store(tmp_path / "search.db", readonly=True)
    assert not (tmp_path / "search.db").exists()


def test_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "search.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE settings SET value = ? WHERE key = 'schema'", (json.dumps(99),))
    with pytest.raises(StoreError, match="newer version of paramap_d2: go on with that one .schema 99"):
        Store(path)


def store_of_version_1(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute(
            "CREATE TABLE evaluations (id INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL, "
            "position INTEGER NOT NULL, genome TEXT NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL, "
            "fitness REAL NOT NULL, metrics TEXT NOT NULL, seconds REAL NOT NULL, iterations INTEGER NOT NULL, "
            "error TEXT NOT NULL, log TEXT NOT NULL, started REAL NOT NULL, worker INTEGER NOT NULL)"
        )
        db.execute("INSERT INTO settings VALUES ('schema', '1'), ('seed', '3')")
        db.execute(
            "INSERT INTO evaluations VALUES (1, 0, 1, '[0.25]', 3, 'finished', 40.5, '{}', 2.5, 9, '', '', 1.5, 0)"
        )
    db.close()


ROW_OF_VERSION_1 = Evaluation(0, 1, [0.25], 3, FINISHED, 40.5, {}, 2.5, 9, started=1.5, id=1)


def test_a_store_of_an_older_version_is_read_as_it_is_and_migrated_to_write(tmp_path):
    path = tmp_path / "search.db"
    store_of_version_1(path)
    before = path.read_bytes()
    with Store(path, readonly=True) as store:
        assert store.evaluations() == [ROW_OF_VERSION_1]
    assert path.read_bytes() == before
    for _ in range(2):  # once migrated, it is as any other
        with Store(path) as store:
            assert store.evaluations()[0] == ROW_OF_VERSION_1
            assert store.settings() == {"seed": 3, "repeats": 1, "stopping": "none", "draws": 1}
    new = replace(evaluation(stage="repeat", planned=100, curve=[[25, 1.5]]), genome=[0.5])
    with Store(path) as store:
        added = store.add(new)
    with Store(path, readonly=True) as store:
        assert store.evaluations() == [ROW_OF_VERSION_1, added]


def store_of_version_3(path, stages):
    """One of several generations of two, with finals and repeats between them."""
    with Store(path) as store:
        for place, (stage, generation, position, status) in enumerate(stages):
            store.add(Evaluation(generation, position, [place / 10], 0, status, 1.0, stage=stage))
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE evaluations DROP COLUMN round")
        db.execute("UPDATE settings SET value = 3 WHERE key = 'schema'")
    db.close()


def test_finals_of_version_3_get_their_round(tmp_path):
    path = tmp_path / "search.db"
    search = [("search", 0, 0, FINISHED), ("search", 0, 1, "failed"), ("search", 0, 1, FINISHED)]
    stages = [*search, ("repeat", 0, 0, FINISHED), ("final", 0, 0, FINISHED), ("search", 1, 0, "interrupted")]
    stages += [("final", 0, 1, FINISHED), ("search", 1, 0, FINISHED), ("final", 1, 0, FINISHED)]
    store_of_version_3(path, stages)
    expected = [0, 0, 0, 0, 2, 0, 2, 0, 3]
    with Store(path, readonly=True) as store:
        assert [e.round for e in store.evaluations()] == expected
        assert "draws" not in store.settings()
    with Store(path) as store:
        assert [e.round for e in store.evaluations()] == expected
        assert store.settings()["draws"] == 1
    with Store(path) as store:
        store.decides_in(7, store.evaluations()[-1:])
        assert [e.round for e in store.evaluations()] == [*expected[:-1], 7]


def test_what_a_newer_version_keeps_of_an_evaluation_is_told(tmp_path):
    path = tmp_path / "search.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE evaluations ADD COLUMN mood TEXT NOT NULL DEFAULT ''")
    for readonly in (True, False):
        with pytest.raises(StoreError, match="search.db was written by a newer version .*keeps mood of an evaluation"):
            Store(path, readonly=readonly)


def test_a_migration_happens_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "search.db"
    store_of_version_1(path)
    statements = [*store_module._MIGRATIONS[1], "INSERT INTO nowhere VALUES (1)"]
    with monkeypatch.context() as patch:
        patch.setitem(store_module._MIGRATIONS, 1, statements)
        with pytest.raises(StoreError, match="nowhere"):
            Store(path)
    with Store(path) as store:
        assert store.evaluations() == [ROW_OF_VERSION_1]


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    path = tmp_path / "search.db"
    with Store(path) as store:
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
        added = []
        with pytest.raises(StoreError, match="search.db cannot be written, .*: database or disk is full"):
            for position in range(1000):
                added.append(store.add(evaluation(0, position, log="x" * 1000)))
    assert added
    with Store(path) as store:  # there is room again
        assert store.evaluations() == added
        store.add(evaluation(1, 0))


@pytest.mark.parametrize("where", [0, 0.3, 0.7])
def test_a_damaged_file_is_told_and_left_alone(tmp_path, where):
    path = tmp_path / "search.db"
    with Store(path) as store:
        for position in range(200):
            store.add(evaluation(0, position, log="x" * 500))
    content = bytearray(path.read_bytes())
    start = int(where * len(content)) // 4096 * 4096
    content[start : start + 8192] = b"\xa5" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError), Store(path) as store:
        store.evaluations()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "genome, message",
    [
        ("[0.5]", "the genome of evaluation 2 is not as long as the first one's"),
        ("7", "the genome of evaluation 2 is not as long"),
        ("[0.5, 1.5]", "a gene of evaluation 2 is no number from 0 to 1"),
        ('[0.5, "x"]', "a gene of evaluation 2 is no number from 0 to 1"),
    ],
)
def test_genomes_that_are_none_are_told(tmp_path, genome, message):
    with Store(tmp_path / "search.db") as store:
        store.add(evaluation())
        store.add(evaluation(0, 1))
        store._db.execute("UPDATE evaluations SET genome = ? WHERE id = 2", (genome,))
        with pytest.raises(StoreError, match=message):
            store.evaluations()
