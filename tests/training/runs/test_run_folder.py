"""Run folders: one process at a time, nothing lost without a word, logs that can be cut back to a checkpoint."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from tests.training.toy import snapshot
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError
from training.runs.run_folder import NoRunFolder, RunFolder, RunFolderError


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[int]:
    """Another process holds the folder, until it is killed: its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with RunFolder(folder):
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"x"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def run_with_checkpoint(folder: Path, value: int) -> None:
    """A run that has logged a line and saved a checkpoint."""
    with RunFolder(folder) as run:
        run.begin({"value": value})
        run.log({"value": value})
        checkpoint.save(folder, "last", {"value": value}, {"weights": {"w": torch.tensor(value)}}, value)


def value_in(folder: Path) -> int:
    """Which run a folder holds, by all of its files."""
    state, groups = checkpoint.load(folder, "last")
    (line,) = (folder / "log.jsonl").read_text().splitlines()
    values = {state["value"], int(groups["weights"]["w"]), json.loads(line)["value"],
              json.loads((folder / "run.json").read_text())["value"]}
    (value,) = values
    return value


def test_two_runs_never_share_a_folder(tmp_path):
    """Catches: two processes that write into one folder, and a dead process that locks it for ever."""
    with held_elsewhere(tmp_path / "run") as pid:
        with pytest.raises(RunFolderError, match=rf"in use by another run \('pid {pid} on .*'\): wait for it"):
            RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run"):  # it was killed, and the lock is gone with it
        with pytest.raises(RunFolderError, match=f"in use by another run .'pid {os.getpid()} on"):
            RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run"):
        pass


def test_what_the_holder_wrote_is_not_trusted(tmp_path):
    """Catches: a lock file that puts terminal escapes, or all of its megabytes, on the screen."""
    (tmp_path / ".lock").write_bytes(b"\x1b[2J\xff" * 10**5)
    with held_elsewhere(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\x1b[2J\xff" * 10**5)
        with pytest.raises(RunFolderError) as caught:
            RunFolder(tmp_path).__enter__()
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    """Catches: an empty run folder after bad input; one removed that was there before, or that holds something."""
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "a" / "b"):
        _ = 1 / 0
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()
    with RunFolder(tmp_path / "new") as run:
        run.begin({})
    assert (tmp_path / "new" / "run.json").exists()


def test_run_json_explains_the_run(tmp_path, root):
    """Catches: a result that nobody can tell the origin of."""
    with RunFolder(tmp_path) as run:
        run.begin({"settings": {"lr": 1e-5, "train": Path("a.csv")}})
        found = json.loads((tmp_path / "run.json").read_text())
    assert found["settings"] == {"lr": 1e-5, "train": "a.csv"}
    assert found["versions"]["torch"] == torch.__version__ and {"python", "numpy"} <= found["versions"].keys()
    assert found["command"] and found["platform"]
    if (root / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        assert found["commit"].rstrip("+") == head.stdout.strip()


def test_an_earlier_run_is_kept(tmp_path, capsys):
    """Catches: yesterday's run overwritten without a word; other people's files moved or removed with it."""
    folder = tmp_path / "run"
    run_with_checkpoint(folder, 1)
    (folder / "notes.txt").write_text("mine")
    (folder / "model").mkdir()
    assert capsys.readouterr().err == ""
    run_with_checkpoint(folder, 2)
    assert value_in(folder) == 2 and value_in(folder / "previous") == 1
    assert capsys.readouterr().err == f"the earlier run in {folder} is kept in {folder / 'previous'}\n"
    run_with_checkpoint(folder, 3)
    assert value_in(folder) == 3 and value_in(folder / "previous") == 2
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "model").is_dir()
    with RunFolder(folder / "previous") as run:  # a run folder itself
        assert run.has_checkpoint()


def test_a_finished_run_is_never_discarded(tmp_path, capsys):
    """Catches: the result of last week thrown away by the second run after it."""
    folder = tmp_path / "run"
    for value in (1, 2, 3, 4, 5):
        run_with_checkpoint(folder, value)
        if value != 3:
            with RunFolder(folder) as run:
                run.finish({"value": value})
    assert [value_in(folder / name) for name in (".", "previous", "previous-2", "previous-3")] == [5, 1, 2, 4]
    assert [line.partition("kept in ")[2] for line in capsys.readouterr().err.splitlines()] == [
        str(folder / "previous"), str(folder / "previous-2"), str(folder / "previous-3"),
        f"{folder / 'previous-3'}, instead of the unfinished run there"]


def test_a_finished_run_is_kept_without_its_checkpoints(tmp_path):
    """Catches: a log and a result removed because their owner made room by removing the large files."""
    with RunFolder(tmp_path) as run:
        run.begin({})
        run.finish({"value": 1})
        run.begin({})
    assert (tmp_path / "previous" / "result.json").exists() and not (tmp_path / "result.json").exists()


def test_folders_of_a_run_go_with_it(tmp_path):
    """Catches: a model that is overwritten by the next run's, or a tokenizer in place before the run has begun."""
    for value in ("old", "new"):
        with RunFolder(tmp_path, ("tokenizer", "model")) as run:
            (run.beginning / "tokenizer").mkdir(parents=True)
            (run.beginning / "tokenizer" / "tokenizer.json").write_text(value)
            if value == "new":
                assert (tmp_path / "tokenizer" / "tokenizer.json").read_text() == "old"
            run.begin({})
            assert (tmp_path / "tokenizer" / "tokenizer.json").read_text() == value
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "config.json").write_text(value)
    assert (tmp_path / "model" / "config.json").read_text() == "new"
    for file in ("tokenizer/tokenizer.json", "model/config.json"):
        assert (tmp_path / "previous" / file).read_text() == "old"
    with RunFolder(tmp_path) as run:  # one that never begins
        run.beginning.mkdir()
    assert not run.beginning.exists()


def test_a_run_without_a_checkpoint_pushes_nothing_out(tmp_path, capsys):
    """Catches: a good run lost because of two failed attempts after it."""
    folder = tmp_path / "run"
    run_with_checkpoint(folder, 1)
    for _ in range(3):
        with RunFolder(folder) as run:
            run.begin({})
            run.log({"failed": True})
    assert value_in(folder / "previous") == 1
    assert (folder / "log.jsonl").read_text() == '{"failed": true}\n'
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_link_in_the_place_of_previous_is_not_followed(tmp_path):
    """Catches: a discarded link that takes what it points to with it."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    run_with_checkpoint(tmp_path / "run", 1)
    (tmp_path / "run" / "previous").symlink_to(tmp_path / "precious")
    run_with_checkpoint(tmp_path / "run", 2)
    assert value_in(tmp_path / "run" / "previous") == 1 and (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "times.jsonl"])
@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_planted_links_are_not_followed(tmp_path, name, target):
    """Catches: a file of ours cut, or written to, through a link that others planted in a shared folder."""
    run_with_checkpoint(tmp_path / "run", 1)
    (tmp_path / "victim").write_text("precious\nand unfinished")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / target)
    mark = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    with pytest.raises((UserError, OSError), match="it is a link"), RunFolder(tmp_path / "run") as run:
        run.log({"loss": 0.5}) if name == "log.jsonl" else run.resume(mark, 1)
    if name == "log.jsonl":
        with RunFolder(tmp_path / "run") as run, pytest.raises((UserError, OSError), match="it is a link"):
            run.resume(mark, 1)
    assert (tmp_path / "victim").read_text() == "precious\nand unfinished" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", [".moving", ".discarded", ".beginning", "previous", "model"])
def test_planted_links_to_folders_are_not_followed(tmp_path, name):
    """Catches: files moved out of another folder, or removed there, because a link in a shared folder leads to it."""
    (tmp_path / "precious").mkdir()
    for file in ("file", "last.json", ".1-0a1b2c3d.tmp"):
        (tmp_path / "precious" / file).write_text("mine")
    run_with_checkpoint(tmp_path / "run", 1)
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with RunFolder(tmp_path / "run", ("model",)) as run:
        run.begin({})
    assert {path.name: path.read_text() for path in (tmp_path / "precious").iterdir()} == dict.fromkeys(
        ("file", "last.json", ".1-0a1b2c3d.tmp"), "mine")
    assert value_in(tmp_path / "run" / "previous") == 1


def test_a_run_does_not_go_on_in_a_planted_folder(tmp_path):
    """Catches: a model written into somebody's folder because a link to it was planted where the run keeps its own."""
    run_with_checkpoint(tmp_path, 1)
    (tmp_path / "model").symlink_to(tmp_path / "previous")
    with RunFolder(tmp_path, ("model",)) as run, pytest.raises(CheckpointError, match="model is a link"):
        run.resume(run.log_mark(), 1)


def test_looking_for_a_checkpoint_touches_nothing(tmp_path):
    """Catches: a look that sets the run aside which it should resume, or that takes an empty folder for a run."""
    run_with_checkpoint(tmp_path / "run", 1)
    before = snapshot(tmp_path / "run")
    with RunFolder(tmp_path / "run") as run:
        assert run.has_checkpoint()
    assert snapshot(tmp_path / "run") == before and value_in(tmp_path / "run") == 1
    with RunFolder(tmp_path / "new") as run:
        assert not run.has_checkpoint()


def test_no_run_folder_touches_nothing(tmp_path):
    """Catches: a process other than the first that writes, locks, or answers for itself whether to resume."""
    with NoRunFolder(tmp_path / "run") as run:
        run.begin({})
        run.log({"loss": 0.5})
        run.times({"seconds": 1})
        run.resume(run.log_mark(), 7)
        run.finish({})
        with pytest.raises(RuntimeError):
            run.has_checkpoint()
    assert list(tmp_path.iterdir()) == []
    own = {name for name in vars(RunFolder) if not name.startswith("_")}
    assert own == {name for name in vars(NoRunFolder) if not name.startswith("_")}


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Catches: half written files of killed processes that fill the disk."""
    run_with_checkpoint(tmp_path, 1)
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / ".123-0a1b2c3d.tmp").write_text("half a checkpoint")
    with RunFolder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_log_is_cut_back_to_the_mark(tmp_path):
    """Catches: lines that appear twice in the log of a resumed run."""
    with RunFolder(tmp_path) as run:
        run.begin({})
        run.log({"loss": 0.1 + 0.2, "label": "ä"})
        mark = run.log_mark()
        run.log({"loss": 0.2})
        (tmp_path / "log.jsonl").open("ab").write(b'{"loss": 0.')  # killed in the middle of a line
    with RunFolder(tmp_path) as run:
        run.resume(mark, 7)
        run.log({"loss": 0.5})
        assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
            {"loss": 0.1 + 0.2, "label": "ä"}, {"loss": 0.5}]
        again = run.log_mark()
    with RunFolder(tmp_path) as run:
        run.resume(again, 8)
    times = [json.loads(line) for line in (tmp_path / "times.jsonl").read_text().splitlines()]
    assert [line["resumed at step"] for line in times] == [7, 8]


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, 3),
    lambda path: path.write_text(path.read_text().replace("0.5", "0.4")),
    lambda path: path.unlink(),
])
def test_another_log_is_not_resumed(tmp_path, damage):
    """Catches: a log whose earlier lines are not this run's any more, continued as if they were; or destroyed."""
    with RunFolder(tmp_path) as run:
        run.begin({})
        run.log({"loss": 0.5})
        mark = run.log_mark()
    damage(tmp_path / "log.jsonl")
    before = snapshot(tmp_path)
    with RunFolder(tmp_path) as run, pytest.raises(CheckpointError, match=r"log\.jsonl"):
        run.resume(mark, 7)
    assert snapshot(tmp_path) == before


def test_a_torn_line_does_not_spoil_the_next(tmp_path):
    """Catches: a line of times glued to the half line that a killed process left."""
    with RunFolder(tmp_path) as run:
        run.times({"seconds": 1})
        (tmp_path / "times.jsonl").open("ab").write(b'{"sec')
        run.times({"seconds": 2})
    assert (tmp_path / "times.jsonl").read_text() == '{"seconds": 1}\n{"seconds": 2}\n'


def test_metrics_that_are_not_json_are_a_bug(tmp_path):
    """Catches: NaN in a log that no JSON reader accepts."""
    with RunFolder(tmp_path) as run, pytest.raises(ValueError):
        run.log({"loss": float("nan")})


# ---- a file system that refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, says", [
    ("x" * 300, "File name too long"), ("file", "File exists|Not a directory"), ("file/run", "Not a directory"),
    ("link", "File exists|No such file"),
])
def test_a_folder_that_cannot_be_made(tmp_path, name, says):
    """Catches: a traceback, or something left behind, for a path that cannot be a folder."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(RunFolderError, match=rf"as run folder: ({says})$"):
        RunFolder(tmp_path / name).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys, number):
    """Catches: a network disk on which no run can be started."""
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    run_with_checkpoint(tmp_path / "run", 1)
    assert value_in(tmp_path / "run") == 1
    assert capsys.readouterr().err == (f"warning: {tmp_path / 'run'} cannot be locked ({os.strerror(number)}): "
                                       "start no second run in it\n")


BEGIN = """
import sys
from common import cli
from training.runs.run_folder import RunFolder
def main():
    with RunFolder(sys.argv[1]) as run:
        run.begin({})
cli.run(main)
"""


def test_no_file_may_hold_a_byte(tmp_path, root):
    """Catches: a traceback, or an empty folder left behind, under `ulimit -f 0`."""
    done = subprocess.run(["bash", "-c", 'ulimit -f 0; exec "$0" -B -c "$1" "$2"', sys.executable, BEGIN,
                           str(tmp_path / "a" / "run")], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "a").exists()
    assert done.stderr.startswith("error: cannot ") and done.stderr.endswith(": File too large\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("inodes", [False, True])
def test_a_disk_that_is_full_from_the_start(small_disk, inodes):
    """Catches: a traceback, or an empty folder left behind; or a lock that needs room in the folder of a whole run."""
    run_with_checkpoint(small_disk / "old", 1)
    if inodes:
        subprocess.run(["mount", "-o", "remount,nr_inodes=40", str(small_disk)], check=True)
        with pytest.raises(OSError):
            for number in range(40):
                (small_disk / f"{number}").touch()
        (small_disk / "0").unlink()  # room for the folder, and no more
    else:
        with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
    with pytest.raises(UserError, match="No space left on device"), RunFolder(small_disk / "new") as run:
        run.begin({})
    assert not (small_disk / "new").exists()
    with RunFolder(small_disk / "old"):
        assert value_in(small_disk / "old") == 1


def test_a_full_disk_leaves_whole_lines(small_disk):
    """Catches: half a line in the log, or a traceback, when the disk is full."""
    with RunFolder(small_disk / "run") as run:
        run.begin({})
        run.log({"loss": 0.5})
        with pytest.raises(UserError, match=r"log\.jsonl: No space left on device"):
            run.log({"text": "x" * 400_000})
        assert (small_disk / "run" / "log.jsonl").read_text() == '{"loss": 0.5}\n'
        run.log({"loss": 0.25})
        mark = run.log_mark()
        run.resume(mark, 1)  # the mark speaks of whole lines only


def test_a_read_only_disk_is_named(small_disk):
    """Catches: a traceback for a folder on a disk that became read-only, as disks do when they fail."""
    run_with_checkpoint(small_disk / "run", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunFolderError, match=r"Read-only file system$"):
        RunFolder(small_disk / "run").__enter__()
    with pytest.raises(RunFolderError, match="Read-only file system"):
        RunFolder(small_disk / "new").__enter__()
    assert value_in(small_disk / "run") == 1
