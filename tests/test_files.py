import os
import stat

import pytest

from paramap_d2.errors import UserError
from paramap_d2.files import make_output_folder, remove_parts, write_whole
from paramap_d2.losses import load_loss, save_loss


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_leaves(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "plain", b"x")
        save_loss(tmp_path / "loss.json", load_loss("square"))
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", [b"new", lambda part: part.write_text("new")], ids=["bytes", "writer"])
def test_a_file_is_the_old_one_until_the_new_one_is_whole(content, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_whole(path, b"old")

    def killed(part, target):
        assert part.read_text() == "new" and path.read_text() == "old"
        raise OSError("full")

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(OSError, match="full"):
        write_whole(path, content)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and path.read_text() == "old"
    monkeypatch.undo()
    write_whole(path, content)
    assert path.read_text() == "new"


def test_parts_of_a_killed_writer_are_removed_and_nothing_else(tmp_path):
    for name in (".best.json.4711.part", "mine.part", ".hidden", "best.json"):
        (tmp_path / name).write_text("x")
    remove_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "best.json", "mine.part"]


def test_an_output_folder(tmp_path):
    make_output_folder(tmp_path / "new" / "folder")
    make_output_folder(tmp_path / "new" / "folder")  # as it is
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match=f"^{path} cannot be the output folder .*; choose another one$"):
            make_output_folder(path)
