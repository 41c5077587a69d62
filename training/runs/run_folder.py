"""The folder of a run. One process at a time holds it, and its files explain how the run came about and went.

    run.json      before the first step: configuration, command line, versions, platform, commit, fingerprints
    log.jsonl     metrics, one line a record; the same bits whether the run was interrupted or not
    times.jsonl   everything that differs from run to run: seconds, speed, memory, resumptions
    last.json, best.json, *.safetensors    the checkpoints, see checkpoint.py
    result.json   written when the run is finished
    report.html   the same for people; live.html: the model in a page
    previous/     the run that was in this folder before: a run folder of its own. A finished run stays there for good;
                  the next one is put into previous-2/, and so on

Other people may be able to write in the folder: nothing in it is opened through a link.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError, one_line, quoted
from common.files import missing_folders, open_regular, remove_temporaries, require_short, write_atomic
from common.terminal import say
from common.version import git_commit
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "transformers")
FILES = {"run.json", "log.jsonl", "times.jsonl", "result.json", "report.html", "live.html",
         *(f"{name}.json" for name in checkpoint.NAMES)}
"""The files of a run, besides its tensor files. All other files in the folder belong to the user and stay there."""
KEPT = {"last.json", "best.json", "result.json", "model"}
"""A run with one of these has come so far that it is kept when another one begins."""
LONGEST_NAME = f"training-{10**17}-{'0' * 16}.safetensors"


class RunFolderError(UserError):
    """A run folder cannot be used; another one may work."""


class RunFolder:
    """`with RunFolder(path) as run:` makes the folder and locks it. RunFolderError if it cannot, or if it is in use.

    The lock is gone when the process ends, however it ends. A folder made for a run that never began is removed again.
    folders: names of the folders in it that belong to the run, too.
    """

    def __init__(self, path: str | os.PathLike, folders: Sequence[str] = ()) -> None:
        self.path, self.folders = Path(path), folders
        self.beginning = self.path / ".beginning"
        """A folder for what a new run needs before it begins: `begin` moves the content to its place."""
        # A run on its way to previous/, and the run that it replaces there.
        self._moving, self._discarded = self.path / ".moving", self.path / ".discarded"
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []
        self._log_bytes, self._log_hash = 0, hashlib.sha256()

    def __enter__(self) -> "RunFolder":
        try:
            require_short(self.path / LONGEST_NAME)
            self._made = missing_folders(self.path)[::-1]
            for folder in reversed(self._made):
                folder.mkdir(exist_ok=True)
            self.path.mkdir(exist_ok=True)  # an error if it is not a folder
            self._lock = open_regular(self.path / ".lock", "a+b", buffering=0, follow=False)
            take_lock(self._lock, self.path)
            self._tidy()
        except (OSError, UserError) as error:
            self._leave()
            if isinstance(error, RunFolderError):
                raise
            why = getattr(error, "strerror", None) or error
            raise RunFolderError(f"cannot use {one_line(str(self.path), 200)} as run folder: {why}") from error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            remove(self.beginning)
            if self._made and not (self.path / "run.json").exists():
                shutil.rmtree(self.path)
        self._leave()

    def _leave(self) -> None:
        """Let go of the lock, and remove the folders made here if they are empty."""
        if self._lock is not None:
            self._lock.close()
        for folder in self._made:  # from the inside out
            with contextlib.suppress(OSError):
                folder.rmdir()

    def has_checkpoint(self) -> bool:
        """Tell whether the folder holds a checkpoint to resume from, valid or not."""
        return checkpoint.exists(self.path, "last")

    def begin(self, description: dict[str, Any]) -> None:
        """Begin a new run: describe it and the environment in run.json. An earlier run moves to previous/."""
        try:
            self._set_aside()
            for path in self.beginning.iterdir() if self.beginning.exists() else ():
                path.rename(self.path / path.name)
        except OSError as error:
            raise RunFolderError(f"cannot move the earlier run in {self.path} to {self._place()} (move it yourself): "
                                 f"{error.strerror or error}") from error
        record = {**environment(), **description}
        write_atomic(self.path / "run.json", json.dumps(record, indent=1, default=str) + "\n")

    def log(self, record: dict[str, Any]) -> None:
        """Append a record of metrics to log.jsonl. It must be the same in every run; times belong in `times`."""
        line = append(self.path / "log.jsonl", record)
        self._log_bytes += len(line)
        self._log_hash.update(line)

    def times(self, record: dict[str, Any]) -> None:
        """Append a record to times.jsonl."""
        append(self.path / "times.jsonl", record)

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json: the run is complete."""
        write_atomic(self.path / "result.json", json.dumps(result, indent=1, default=str) + "\n")

    def log_mark(self) -> dict[str, Any]:
        """Return length and SHA-256 of log.jsonl, for a checkpoint to remember. Flushes the file to disk first."""
        if self._log_bytes:
            with open_regular(self.path / "log.jsonl", "rb+", follow=False) as file:
                os.fsync(file.fileno())
        return {"bytes": self._log_bytes, "sha256": self._log_hash.hexdigest()}

    def resume(self, mark: dict[str, Any], step: int) -> None:
        """Resume the run at a step: cut log.jsonl back to the mark, tidy after a killed save, note it in times.jsonl.

        CheckpointError, and an unchanged log, if it does not begin with the lines that the mark was made of, or if a
        link is in the place of a folder that the run writes in.
        """
        if links := [folder for folder in self.folders if (self.path / folder).is_symlink()]:
            raise CheckpointError(f"{self.path / links[0]} is a link; a run keeps its own folders")

        # Check the log.
        path, length, content = self.path / "log.jsonl", mark["bytes"], b""
        if length:
            with checkpoint.open_file(path) as file:
                content = file.read(min(length, os.fstat(file.fileno()).st_size))
        if len(content) != length or hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise CheckpointError(f"{path} is not what it was when the checkpoint was saved: truncated or edited")

        # Undo everything after the mark.
        if os.path.lexists(path):
            with open_regular(path, "rb+", follow=False) as file:
                file.truncate(length)
        self._log_bytes, self._log_hash = length, hashlib.sha256(content)
        checkpoint.remove_unnamed(self.path)
        self.times({"resumed at step": step, **environment()})

    def _own_files(self) -> list[Path]:
        """List the files of the run that is in the folder."""
        return [path for path in self.path.iterdir()
                if path.name in FILES or path.name in self.folders or checkpoint.TENSOR_FILE.fullmatch(path.name)]

    def _place(self) -> Path:
        """Return where an earlier run goes: the first of previous/, previous-2/, ... without a finished run."""
        names = ("previous" if number == 1 else f"previous-{number}" for number in itertools.count(1))
        return next(self.path / name for name in names if not os.path.lexists(self.path / name / "result.json"))

    def _set_aside(self) -> None:
        """Move the earlier run to its place, instead of the unfinished one there. One not worth keeping is removed."""
        checkpoint.remove_unnamed(self.path)
        files, place = self._own_files(), self._place()
        if not KEPT.intersection(path.name for path in files):
            for path in files:
                remove(path)
            return
        self._moving.mkdir()
        for path in files:
            path.rename(self._moving / path.name)
        discarding = os.path.lexists(place)
        if discarding:
            place.rename(self._discarded)
        self._moving.rename(place)
        remove(self._discarded)
        instead = ", instead of the unfinished run there" if discarding else ""
        say(f"the earlier run in {self.path} is kept in {place}{instead}", error=True)

    def _tidy(self) -> None:
        """Clean up after a killed process: remove half-written files, finish or undo a half-done _set_aside."""
        for folder in (self.path, *(self.path / name for name in self.folders)):
            if folder == self.path or not folder.is_symlink():
                remove_temporaries(folder)
        if self._moving.is_symlink() or self._moving.is_file():
            self._moving.unlink()
        elif self._moving.exists():
            for path in self._moving.iterdir():
                path.rename(self.path / path.name)
            self._moving.rmdir()
        if os.path.lexists(self._discarded) and not os.path.lexists(place := self._place()):
            self._discarded.rename(place)
        remove(self._discarded)
        remove(self.beginning)


class NoRunFolder(RunFolder):
    """Stands in for RunFolder in every process but the first; does nothing."""

    def __enter__(self) -> "NoRunFolder":
        return self

    def _nothing(self, *_: object) -> None:
        pass

    __exit__ = begin = log = times = finish = resume = _nothing

    def has_checkpoint(self) -> bool:
        raise RuntimeError("only the first process knows whether there is a checkpoint: ask through the group")

    def log_mark(self) -> dict[str, Any]:
        return {}


def remove(path: Path) -> None:
    """Remove a file, or a folder and everything in it, if it exists; of a link, remove only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append(path: Path, record: dict[str, Any]) -> bytes:
    """Append a record to a file as one line of JSON, completely or not at all. Returns the line."""
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    try:
        with open_regular(path, "ab+", buffering=0, follow=False) as file:
            # Cut off an incomplete last line: a process was killed while it wrote it.
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                end = file.read().rfind(b"\n") + 1
                file.truncate(end)

            # Write the new one.
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return line


def take_lock(file: BinaryIO, folder: Path) -> None:
    """Lock an open file and write this process's name into it. RunFolderError if another process has the lock.

    A file system without locks, or a disk too full for the name, costs a warning at most.
    """
    # Lock.
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 30)  # a byte far behind the content, so that others can read the content
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            say(f"warning: {folder} cannot be locked ({error.strerror or error}): start no second run in it",
                error=True)
            return
        file.seek(0)
        holder = file.read(200).decode("utf-8", "replace").strip() or "unknown"
        raise RunFolderError(f"{folder} is in use by another run ({quoted(holder, 100)}): "
                             "wait for it, or stop it") from error

    # Sign.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())


def environment() -> dict[str, Any]:
    """Describe where a run happens: command line, versions, platform, commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"command": sys.argv, "versions": versions, "platform": platform.platform(), "commit": git_commit()}
