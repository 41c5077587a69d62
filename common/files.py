"""Write files whole or not at all; read only what is a file and of a sensible size."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError, quoted

TEMPORARY = re.compile(r"\.[0-9]+-[0-9a-f]{8}\.tmp")  # made by `replacing`, left behind by a killed process
STALE = 3600.0  # seconds; a temporary file that nobody has written to for so long belongs to a dead process


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; after the block it is renamed to `path`.

    At every moment `path` holds its old content or the complete new one, even after a power cut: the file is flushed to
    disk before the rename, the folder after it. If the block raises, `path` stays as it was and the temporary file is
    removed. A killed process may leave a temporary file; a later write in the same folder removes it. UserError if the
    file system refuses.
    """
    path = Path(path)
    remove_temporaries(path.parent, STALE)
    # A short name: the name of `path` plus a suffix could be too long.
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        try:
            yield temporary
            os.chmod(temporary, _usual_mode())  # some libraries make files that only their owner can read
            with open(temporary, "r+b") as file:  # Windows cannot flush a file that is open for reading only
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write `content` (str as UTF-8, line ends as given) to `path`, whole or not at all, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def remove_temporaries(folder: Path, age: float = 0.0) -> None:
    """Remove the temporary files of `replacing` in a folder that were not written to for `age` seconds; 0: all."""
    with contextlib.suppress(OSError):  # a file too many must not stop anybody
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name) and (not age or time.time() - path.lstat().st_mtime > age):
                path.unlink()


def require_writable(path: Path) -> None:
    """Raise UserError if a file could not be written at `path`, whose folder need not exist yet. Changes nothing."""
    there = next((folder for folder in path.parents if os.path.lexists(folder)), Path())
    if not there.is_dir():
        raise UserError(f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} may not be written to")
    if os.path.isdir(path) and not os.path.islink(path):
        raise UserError(f"{path} is a folder")
    try:
        require_short(path)
    except OSError as error:
        raise UserError(f"{error.strerror}: {quoted(path.name)}") from error


def require_short(path: Path) -> None:
    """Raise OSError if the name of a file, or of a folder above it, is longer than the file system allows."""
    if os.name == "posix":
        there = next((folder for folder in path.parents if os.path.exists(folder)), Path())
        longest, total = os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
        if len(os.fsencode(path)) >= total or any(len(os.fsencode(part)) > longest for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))


def missing_folders(path: Path) -> list[Path]:
    """Return the folders on the way to `path`, and `path`, that are not there, from the outside in."""
    return [folder for folder in (*reversed(path.parents), path) if not os.path.exists(folder)]


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and its parents if they are missing. UserError if that fails."""
    try:
        for folder in missing_folders(Path(path)):  # parents=True recurses, and a path may have 2000 parts
            folder.mkdir(exist_ok=True)
        Path(path).mkdir(exist_ok=True)  # an error if it is not a folder
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error


def open_regular(path: str | os.PathLike, mode: str = "rb", buffering: int = -1, follow: bool = True) -> BinaryIO:
    """Open a file as `open` does. OSError for a pipe, a device or a folder: they might never end, or never answer.

    follow: whether `path` may be a link; not where others can write, as they could lead us to any file of ours.
    """
    def opener(name: str, flags: int) -> int:
        if not follow and os.path.islink(name):
            raise OSError(errno.ELOOP, "it is a link", name)
        flags |= getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
        descriptor = os.open(name, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(name))
        return descriptor

    return open(path, mode, buffering, opener=opener)


def read_bounded(path: str | os.PathLike, limit: int, follow: bool = True) -> bytes:
    """Return the bytes of a regular file. OSError, too, if it has more than `limit` or they do not fit into memory.

    follow: whether `path` may be a link, as in `open_regular`.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit >> 20} MB, too large for its purpose", str(path))
        try:
            content = file.read(size + 1)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "not enough memory for it", str(path)) from error
    if len(content) != size:
        raise OSError(errno.EINVAL, "it changes while it is read", str(path))
    return content


def sha256_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes in 64 hex digits. UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _usual_mode() -> int:
    """Return the permissions of a new file under the user's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, on systems that can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder. The rename has happened, so the file is written.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
