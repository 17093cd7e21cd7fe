import json
import sqlite3

import pytest

from paramap_d2.search.store import FINISHED, Evaluation, Store, StoreError, best_evaluation


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
    with Store(tmp_path / "search.db") as store, Store(tmp_path / "search.db", readonly=True) as reader:
        assert reader.evaluations() == []
        added = store.add(evaluation())
        assert reader.evaluations() == [added]
        with pytest.raises(sqlite3.OperationalError):
            reader.add(evaluation())


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
    with pytest.raises(StoreError, match="newer version .schema 99"):
        Store(path)


def test_best_is_the_first_asked_for_of_the_best():
    rows = [evaluation(1, 0, 5.0), evaluation(0, 3, 5.0), evaluation(0, 2, 4.0), evaluation(0, 0, 9.0, "failed")]
    assert best_evaluation(rows) is rows[1]
    assert best_evaluation([]) is None
    assert best_evaluation(rows[-1:]) is None
