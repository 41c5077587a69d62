"""The folder of a run: held by one process at a time, and telling by itself how the run came about and went.

    run.json      before the first step: configuration, command line, versions, platform, commit, fingerprints
    log.jsonl     metrics, one line a record; the same bits whether the run was interrupted or not
    times.jsonl   what differs from run to run: seconds, speed, memory, resumptions
    last.json, best.json, *.safetensors    see checkpoint.py
    result.json   written when the run is finished
    previous/     the run that was here before, as it was: a run folder itself
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
from training import checkpoint
from training.checkpoint import CheckpointError

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "transformers")
REPOSITORY = Path(__file__).resolve().parent.parent
FILES = {"run.json", "log.jsonl", "times.jsonl", "result.json", *(f"{name}.json" for name in checkpoint.NAMES)}
"""What makes up a run, besides tensor files; anything else in the folder is somebody else's and left alone."""
LEFT_BEHIND = re.compile(r"\.[0-9]+-[0-9a-f]{8}\.tmp")
"""Temporary files of common.files, which a killed process leaves behind."""


class RunFolder:
    """`with RunFolder(path) as run:` makes the folder and locks it, or raises UserError naming who holds it.

    The lock belongs to the open file: the operating system lifts it when the process ends, however that happens.
    A folder that was made for a run which then never began is removed again, with all that was prepared in it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []
        self._log_bytes, self._log_hash = 0, hashlib.sha256()

    def __enter__(self) -> "RunFolder":
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+b")
        except OSError as error:
            raise UserError(f"cannot use {self.path} as run folder: {error.strerror or error}\n"
                            "Choose another with --out, or make it writable") from error
        try:
            take_lock(self._lock, self.path)
            self._tidy()
        except OSError as error:
            self._lock.close()
            raise UserError(f"cannot tidy {self.path}: {error.strerror or error}") from error
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._made and not (self.path / "run.json").exists():
                shutil.rmtree(self.path)
                for folder in self._made[1:]:  # from the inside out
                    folder.rmdir()
        self._lock.close()

    def begin(self, description: dict[str, Any], resume: bool = False) -> bool:
        """Begin a run, described for good in run.json; or with `resume` leave all as it is if there is a checkpoint.

        Returns whether there is a checkpoint to go on from. A run that was here before and got as far as a checkpoint
        is moved to previous/, where it takes the place of the one before it.
        """
        if resume and checkpoint.exists(self.path, "last"):
            return True
        if resume:
            print(f"{self.path} holds no checkpoint to go on from: starting anew", file=sys.stderr)
        self._set_aside()
        record = {**environment(), **description}
        write_atomic(self.path / "run.json", json.dumps(record, indent=1, default=str) + "\n")
        return False

    def log(self, record: dict[str, Any]) -> None:
        """Append a line of metrics to log.jsonl. Deterministic values only; times go to `times`."""
        line = append(self.path / "log.jsonl", record)
        self._log_bytes += len(line)
        self._log_hash.update(line)

    def times(self, record: dict[str, Any]) -> None:
        """Append a line to times.jsonl."""
        append(self.path / "times.jsonl", record)

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json: the run is complete."""
        write_atomic(self.path / "result.json", json.dumps(result, indent=1, default=str) + "\n")

    def log_mark(self) -> dict[str, Any]:
        """How far log.jsonl goes, for a checkpoint to remember; it is on disk when this returns."""
        if self._log_bytes:
            with open(self.path / "log.jsonl", "rb+") as file:
                os.fsync(file.fileno())
        return {"bytes": self._log_bytes, "sha256": self._log_hash.hexdigest()}

    def go_on(self, mark: dict[str, Any], step: int) -> None:
        """Cut log.jsonl back to a mark, clear up after a save that was killed, note the resumption in times.jsonl.

        Raises:
            CheckpointError: the log is not the one that the mark was made of; it is left as it is.
        """
        path, length = self.path / "log.jsonl", mark["bytes"]
        content = b""
        if length:
            with checkpoint.open_regular(path) as file:
                content = file.read(length)
        if len(content) != length or hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise CheckpointError(f"{path} is not what it was when the checkpoint was saved: truncated or edited")
        if path.exists():
            os.truncate(path, length)
        self._log_bytes, self._log_hash = length, hashlib.sha256(content)
        checkpoint.remove_unnamed(self.path)  # what the last save would have removed
        self.times({"resumed at step": step, **environment()})

    def _own_files(self) -> list[Path]:
        """The files of the run that is in the folder."""
        return [path for path in self.path.iterdir()
                if path.name in FILES or checkpoint.TENSOR_FILE.fullmatch(path.name)]

    def _set_aside(self) -> None:
        """Move the run that is here to previous/; one that never got to a checkpoint is removed instead."""
        moving, previous, discarded = self._aside()
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
            raise UserError(f"cannot move the earlier run in {self.path} to {previous}: {error.strerror or error}\n"
                            "Move it yourself, or choose another folder with --out") from error
        print(f"the earlier run in {self.path} is kept in {previous}", file=sys.stderr)

    def _tidy(self) -> None:
        """Clear up what a process left half done when it died: files of a save, and a run that was being set aside."""
        for path in self.path.iterdir():
            if LEFT_BEHIND.fullmatch(path.name):
                path.unlink(missing_ok=True)
        moving, previous, discarded = self._aside()
        if moving.is_dir():
            for path in moving.iterdir():
                path.rename(self.path / path.name)
            moving.rmdir()
        if os.path.lexists(discarded) and not os.path.lexists(previous):
            discarded.rename(previous)
        remove(discarded)

    def _aside(self) -> tuple[Path, Path, Path]:
        """On its way to previous/, a run is in the first, and the one before it in the last of these folders."""
        return self.path / ".moving", self.path / "previous", self.path / ".discarded"


def remove(folder: Path) -> None:
    """Remove a folder, if it is there, and all that is in it; of a link, only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def append(path: Path, record: dict[str, Any]) -> bytes:
    """Append a record to a file as one line of JSON, all of it or nothing; returns the line."""
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    try:
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end = cut_torn_line(path)  # a process was killed while it wrote it
            try:
                file.write(line)
                file.flush()
            except OSError:
                os.truncate(path, end)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return line


def cut_torn_line(path: Path) -> int:
    """Cut a file after its last complete line; returns its new length."""
    end = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, end)
    return end


def take_lock(file: BinaryIO, folder: Path) -> None:
    """Lock an open file for this process and write into it who that is; UserError if another one has it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 30)  # a byte beyond the content, which so stays readable for others
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise UserError(f"cannot lock {folder}: {error.strerror or error}\n"
                            "Choose a folder on another file system with --out") from error
        file.seek(0)
        holder = file.read(200).decode("utf-8", "replace").strip() or "unknown"
        raise UserError(f"{folder} is in use by another run ({quoted(holder, 100)}).\n"
                        "Wait for it, stop it, or choose another folder with --out") from error
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
    file.flush()


def environment() -> dict[str, Any]:
    """Where a run happens: command line, versions, platform, commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"command": sys.argv, "versions": versions, "platform": platform.platform(), "commit": git_commit()}


def git_commit() -> str | None:
    """The commit of the code, with "+" if files differ from it; None outside of git."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=10,
                              check=True).stdout.strip()

    if not (REPOSITORY / ".git").exists():
        return None
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
