import os
import threading
import time

import portalocker
import pytest

from paramap_d2.search import lock
from paramap_d2.search.lock import held, only_one
from paramap_d2.search.store import StoreError


def test_a_lock_is_seen_while_it_is_held_and_no_longer(tmp_path):
    assert held(tmp_path) is False  # no search has ever been there
    with only_one(tmp_path, resume=False):
        assert held(tmp_path) is True
        assert held(tmp_path) is True
    assert held(tmp_path) is False
    assert os.listdir(tmp_path) == [".lock"]


def test_who_looks_keeps_no_search_from_starting(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    looking, over = threading.Event(), threading.Event()
    unlock, sleep = portalocker.unlock, time.sleep

    def unlock_when_over(file):
        looking.set()
        over.wait(60)
        unlock(file)

    def let_go_and_sleep(seconds):  # the search waits for the lock
        over.set()
        thread.join()
        sleep(seconds)

    monkeypatch.setattr(portalocker, "unlock", unlock_when_over)
    thread = threading.Thread(target=held, args=(tmp_path,))
    thread.start()
    try:
        assert looking.wait(60)
        with monkeypatch.context() as hasty:
            hasty.setattr(lock, "PATIENCE", 0.0)
            with pytest.raises(StoreError, match="another search is running"), only_one(tmp_path, resume=True):
                pass
        monkeypatch.setattr(time, "sleep", let_go_and_sleep)
        with only_one(tmp_path, resume=True):
            assert over.is_set()
    finally:
        over.set()
        thread.join()


def test_another_search_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with (
        only_one(tmp_path, resume=False),
        pytest.raises(StoreError, match="another search is running"),
        only_one(tmp_path, resume=False),
    ):
        pass


def test_a_lock_that_cannot_be_asked_for(tmp_path, monkeypatch):
    (tmp_path / ".lock").mkdir()
    assert held(tmp_path) is None
