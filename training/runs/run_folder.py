"""The folder of a run. One process at a time holds it, and its files explain how the run came about and went.

    run.json      before the first step: configuration, command line, versions, platform, commit, fingerprints
    log.jsonl     metrics, one line a record; the same bits whether the run was interrupted or not
    times.jsonl   everything that differs from run to run: seconds, speed, memory, resumptions
    last.json, best.json, *.safetensors    the checkpoints, see checkpoint.py
    result.json   written when the run is finished
    previous/     the run that was in this folder before: a run folder of its own
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError, quoted
from common.files import write_atomic
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "transformers")
REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILES = {"run.json", "log.jsonl", "times.jsonl", "result.json", *(f"{name}.json" for name in checkpoint.NAMES)}
"""The files of a run, besides its tensor files. All other files in the folder belong to the user and stay there."""
TEMPORARY = re.compile(r"\.[0-9]+-[0-9a-f]{8}\.tmp")  # of common.files, left behind by a killed process


class RunFolderError(UserError):
    """A run folder cannot be used; another one may work."""


class RunFolder:
    """`with RunFolder(path) as run:` makes the folder and locks it. RunFolderError if it cannot, or if it is in use.

    The lock is gone when the process ends, however it ends. A folder made for a run that never began is removed again.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        # A run on its way to previous/, previous/ itself, and the run that it replaces there.
        self._aside = self.path / ".moving", self.path / "previous", self.path / ".discarded"
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []
        self._log_bytes, self._log_hash = 0, hashlib.sha256()

    def __enter__(self) -> "RunFolder":
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+b")
        except OSError as error:
            raise RunFolderError(f"cannot use {self.path} as run folder: {error.strerror or error}") from error
        try:
            take_lock(self._lock, self.path)
            self._tidy()
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError):
                raise RunFolderError(f"cannot tidy {self.path}: {error.strerror or error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._made and not (self.path / "run.json").exists():
                shutil.rmtree(self.path)
                for folder in self._made[1:]:  # the parents, from the inside out
                    folder.rmdir()
        self._lock.close()

    def has_checkpoint(self) -> bool:
        """Tell whether the folder holds a checkpoint to resume from, valid or not."""
        return checkpoint.exists(self.path, "last")

    def begin(self, description: dict[str, Any]) -> None:
        """Begin a new run: describe it and the environment in run.json. An earlier run moves to previous/."""
        self._set_aside()
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
            with open(self.path / "log.jsonl", "rb+") as file:
                os.fsync(file.fileno())
        return {"bytes": self._log_bytes, "sha256": self._log_hash.hexdigest()}

    def resume(self, mark: dict[str, Any], step: int) -> None:
        """Resume the run at a step: cut log.jsonl back to the mark, tidy after a killed save, note it in times.jsonl.

        CheckpointError, and an unchanged log, if it does not begin with the lines that the mark was made of.
        """
        # Check the log.
        path, length, content = self.path / "log.jsonl", mark["bytes"], b""
        if length:
            with checkpoint.open_regular(path) as file:
                content = file.read(length)
        if len(content) != length or hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise CheckpointError(f"{path} is not what it was when the checkpoint was saved: truncated or edited")

        # Undo everything after the mark.
        if path.exists():
            os.truncate(path, length)
        self._log_bytes, self._log_hash = length, hashlib.sha256(content)
        checkpoint.remove_unnamed(self.path)
        self.times({"resumed at step": step, **environment()})

    def _own_files(self) -> list[Path]:
        """List the files of the run that is in the folder."""
        return [path for path in self.path.iterdir()
                if path.name in FILES or checkpoint.TENSOR_FILE.fullmatch(path.name)]

    def _set_aside(self) -> None:
        """Move the earlier run to previous/, in place of the one there. One without a checkpoint is removed."""
        moving, previous, discarded = self._aside
        checkpoint.remove_unnamed(self.path)
        try:
            if not any(checkpoint.exists(self.path, name) for name in checkpoint.NAMES):
                for path in self._own_files():
                    path.unlink()
                return
            moving.mkdir()
            for path in self._own_files():
                path.rename(moving / path.name)
            if os.path.lexists(previous):
                previous.rename(discarded)
            moving.rename(previous)
            remove(discarded)
        except OSError as error:
            raise RunFolderError(f"cannot move the earlier run in {self.path} to {previous} (move it yourself): "
                                 f"{error.strerror or error}") from error
        print(f"the earlier run in {self.path} is kept in {previous}", file=sys.stderr)

    def _tidy(self) -> None:
        """Clean up after a killed process: remove half-written files, finish or undo a half-done _set_aside."""
        for path in self.path.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        moving, previous, discarded = self._aside
        if moving.is_dir():
            for path in moving.iterdir():
                path.rename(self.path / path.name)
            moving.rmdir()
        if os.path.lexists(discarded) and not os.path.lexists(previous):
            discarded.rename(previous)
        remove(discarded)


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


def remove(folder: Path) -> None:
    """Remove a folder and everything in it, if it exists; of a link, remove only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def append(path: Path, record: dict[str, Any]) -> bytes:
    """Append a record to a file as one line of JSON, completely or not at all. Returns the line."""
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    try:
        with open(path, "ab+") as file:
            # Cut off an incomplete last line: a process was killed while it wrote it.
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end = path.read_bytes().rfind(b"\n") + 1
                os.truncate(path, end)

            # Write the new one.
            try:
                file.write(line)
                file.flush()
            except OSError:
                os.truncate(path, end)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return line


def take_lock(file: BinaryIO, folder: Path) -> None:
    """Lock an open file and write this process's name into it. RunFolderError if another process has the lock."""
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
            raise RunFolderError(f"cannot lock {folder}, perhaps because of its file system: "
                                 f"{error.strerror or error}") from error
        file.seek(0)
        holder = file.read(200).decode("utf-8", "replace").strip() or "unknown"
        raise RunFolderError(f"{folder} is in use by another run ({quoted(holder, 100)}): "
                             "wait for it, or stop it") from error

    # Sign.
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
    file.flush()


def environment() -> dict[str, Any]:
    """Describe where a run happens: command line, versions, platform, commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"command": sys.argv, "versions": versions, "platform": platform.platform(), "commit": git_commit()}


def git_commit() -> str | None:
    """Return the commit of the code, with "+" if files differ from it; None outside of git."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=10,
                              check=True).stdout.strip()

    if not (REPOSITORY / ".git").exists():
        return None
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
