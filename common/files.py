"""Write files whole or not at all."""

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
    """Yield a temporary path in the same folder to write to; after the block it is renamed to `path`.

    At every moment `path` holds its old content or the complete new one, even after a power cut: the file is flushed to
    disk before the rename, the folder after it. If the block raises, `path` stays as it was and the temporary file is
    removed. A killed process may leave a `.*.tmp` file, which nobody reads. UserError if the file system refuses.
    """
    path = Path(path)
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


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and its parents if they are missing. UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error


def sha256_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes in 64 hex digits. UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
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
