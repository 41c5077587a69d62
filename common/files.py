"""Files that are either complete or not there."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a fresh path beside `path` to write to; when the block ends well, it takes the place of `path`.

    At every instant `path` holds its old content or the complete new one, also after a power cut: the file is
    flushed to disk before the rename, the folder after it. When the block raises, `path` is untouched and the
    fresh file removed. A killed process may leave a `.*.tmp` file behind, which nobody reads.

    Raises:
        UserError: the file system refused (no space, no permission, no folder, name too long); names path and
        reason.
    """
    path = Path(path)
    # A short name of its own: `path`'s name plus a suffix could be too long where `path` itself is not.
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        try:
            yield temporary
            os.chmod(temporary, _usual_mode())  # some libraries write files that only their owner can read
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write `content` (str as UTF-8, line ends as given) to `path`, all of it or nothing; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder, and those around it, unless it is there. UserError where it cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error


def sha256_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes in 64 hex digits, read in pieces. UserError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _usual_mode() -> int:
    """The permissions that a new file gets from the user's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def _flush(path: Path) -> None:
    """Push a file's content to the disk. Opened for writing because Windows flushes no read-only handle."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Push a folder's entries to the disk, where folders can be opened and flushed at all."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems flush no folders. The rename has happened, so this is no failed write.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
