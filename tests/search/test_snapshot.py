import os
import shutil

import pytest

from paramap_d2.search.snapshot import snapshot
from paramap_d2.search.store import Evaluation, Store


def evaluation(position):
    return Evaluation(0, position, [0.5] * 40, 0, "finished", float(position), log="x" * 3000)


def listing(folder):
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def rows(path):
    with Store(path, readonly=True) as reader:
        return [e.position for e in reader.evaluations()]


def test_reading_leaves_nothing_behind(tmp_path):
    path = tmp_path / "search.db"
    with Store(path) as store:
        store.add(evaluation(0))
        before = listing(tmp_path)
        assert rows(path) == [0]
        assert listing(tmp_path) == before
    assert os.listdir(tmp_path) == ["search.db"]
    assert rows(path) == [0]
    assert os.listdir(tmp_path) == ["search.db"]


def test_a_killed_search_is_read_as_of_its_last_commit(tmp_path):
    path = tmp_path / "search.db"
    killed = tmp_path / "killed"
    killed.mkdir()
    with Store(path) as store:
        store.add(evaluation(0))
        (killed / "search.db").write_bytes(path.read_bytes())
        wal = (tmp_path / "search.db-wal").read_bytes()
        (killed / "search.db-wal").write_bytes(wal)
    before = listing(killed)
    assert rows(killed / "search.db") == [0]
    (killed / "search.db-wal").write_bytes(wal[:-100])  # the row was being written
    assert rows(killed / "search.db") == []
    assert listing(killed).keys() == before.keys()


def test_a_folder_that_may_only_be_read(tmp_path):
    path = tmp_path / "search.db"
    with Store(path) as store:
        store.add(evaluation(0))
        (tmp_path / "search.db-shm").rename(tmp_path / "shm")  # as on another host, which cannot use it
        tmp_path.chmod(0o555)
        try:
            assert rows(path) == [0]
            assert "search.db-shm" not in os.listdir(tmp_path)  # root could have made it
        finally:
            tmp_path.chmod(0o755)
            (tmp_path / "shm").rename(tmp_path / "search.db-shm")


def test_a_checkpoint_between_the_two_copies(tmp_path, monkeypatch):
    path = tmp_path / "search.db"
    copy = shutil.copyfile
    with Store(path) as store:
        store.add(evaluation(0))

        def copyfile(source, target):
            copy(source, target)
            if source == path and len(store.evaluations()) == 1:
                store.add(evaluation(1))
                store._db.execute("PRAGMA wal_checkpoint(RESTART)")
                store.add(evaluation(2))  # over the first frames of the WAL

        monkeypatch.setattr(shutil, "copyfile", copyfile)
        assert rows(path) == [0, 1, 2]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError), snapshot(tmp_path / "search.db"):
        pass
