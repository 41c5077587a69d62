"""Atomic writes: the old content or the new, nothing between, and refusals as UserError."""

import os
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import STALE, open_regular, replacing, require_writable, sha256_file, write_atomic


def test_write_and_replace(tmp_path):
    """Catches a changed line end or encoding, and temporary files left behind."""
    path = tmp_path / "a.txt"
    write_atomic(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    write_atomic(str(path), b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_failure_inside_leaves_the_old_file(tmp_path, stop):
    """Catches writing into the target itself, and a temporary file that outlives an interrupted write."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(stop), replacing(path) as temporary:
        temporary.write_text("half")
        raise stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    """Catches a rename before the data is on disk: after a power cut the file would be empty."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomic(tmp_path / "a", b"x")
    assert calls == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


def test_longest_name_is_writable(tmp_path):
    """Catches a temporary name made longer than the target's, which fails at the 255-byte limit."""
    write_atomic(tmp_path / ("n" * 255), b"x")
    assert os.listdir(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("name", ["missing/a.txt", "n" * 300, "folder"])
def test_refusals_are_user_errors(tmp_path, name):
    """Catches an OSError traceback where the user's path is at fault; the message must name the path."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write .*" + name.rpartition("/")[2]):
        write_atomic(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_read_only_folder(tmp_path):
    """Catches a traceback for a folder without write permission."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            write_atomic(tmp_path / "a", b"x")
    finally:
        tmp_path.chmod(0o700)


def test_sha256(tmp_path):
    """Catches hashing only the first piece of a large file."""
    path = tmp_path / "a"
    path.write_bytes(b"\x00" * (3 << 20))
    assert sha256_file(path) == "bbd05cf6097ac9b1f89ea29d2542c1b7b67ee46848393895f5a9e43fa1f621e5"
    with pytest.raises(UserError, match=r"cannot read .*nothing"):
        sha256_file(tmp_path / "nothing")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_replaced_file_has_the_usual_permissions(tmp_path):
    """Catches a model or checkpoint that nobody but its owner can read, because a library wrote it with mode 600."""
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "private") as temporary:
        temporary.write_bytes(b"weights")
        temporary.chmod(0o600)
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_later_write_removes_what_killed_writes_left(tmp_path):
    """Catches temporary files that stay for good; one of a writer that is alive, or a file of the user's, removed."""
    old = time.time() - STALE - 60
    for name, at in ((".123-0a1b2c3d.tmp", old), (".124-0a1b2c3d.tmp", time.time()), (".mine.tmp", old)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (at, at))
    (tmp_path / ".125-0a1b2c3d.tmp").mkdir()  # cannot be unlinked, and is no reason to fail
    write_atomic(tmp_path / "a", b"x")
    assert sorted(os.listdir(tmp_path)) == [".124-0a1b2c3d.tmp", ".125-0a1b2c3d.tmp", ".mine.tmp", "a"]


@pytest.mark.parametrize("mode", ["rb", "rb+", "ab+", "wb"])
def test_no_link_is_followed(tmp_path, mode):
    """Catches a link that leads a write, or a read, to another file."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("made")
    for name in ("link", "dangling"):
        with pytest.raises(OSError, match="it is a link"):
            open_regular(tmp_path / name, mode, follow=False)
    assert (tmp_path / "victim").read_bytes() == b"precious" and not (tmp_path / "made").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
@pytest.mark.parametrize("mode", ["rb", "rb+", "ab+"])
def test_a_pipe_is_not_waited_for(tmp_path, mode):
    """Catches a program that hangs because a pipe is in a file's place."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe", mode)


@pytest.mark.skipif(os.name != "posix", reason="limits of names are asked of POSIX systems")
@pytest.mark.parametrize("path, said", [
    ("n" * 256, "File name too long"), ("new/" + "n" * 256 + "/a", "File name too long"),
    ("new/" * 1024 + "a", "File name too long"), ("new/" * 1020 + "a", None), ("folder", "folder is a folder"),
    ("file/a", "file is not a folder"), ("n" * 255, None), ("new/folder/a", None), ("file", None), ("link", None)])
def test_a_file_that_cannot_be_written_is_found_beforehand(tmp_path, monkeypatch, path, said):
    """Catches a place that fails after hours of work, and one that would have done; nothing is made meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("folder")
    if said is None:
        require_writable(Path(path))
    else:
        with pytest.raises(UserError, match=said):
            require_writable(Path(path))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]
