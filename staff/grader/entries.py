"""List the files of a zip or a folder, and read them one by one. Everything about them may be hostile.

What another program might read in another way is refused, not repaired: Refused says why, in one line.
"""

import contextlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError, printable, quoted

JUNK = re.compile(r"(^|/)(__MACOSX|__pycache__|\.[^/]*)(/|$)|(^|/)(\._[^/]*|Thumbs\.db|desktop\.ini|Icon\r)$")
"Paths that systems and tools leave behind: never graded, and not looked into."

ENTRIES, ZIP_LIMIT, TOTAL_LIMIT, RATIO = 5_000, 100_000_000, 500_000_000, 200
"""A zip's largest number of entries, its size, what it may claim to inflate to, and how far a file may inflate.

Only graded files are inflated, so these refuse a bomb early rather than keep it from going off.
"""
DEPTH = 20  # folders deeper than this are not looked into: os.walk fails at a thousand
PACK = "pack it with prepare_submit.py"


class Refused(UserError):
    """A submission that cannot be taken in; one line says why."""


@dataclass(frozen=True)
class Source:
    """The entries of a zip or a folder, and how to read one: read(name, limit), which raises TooLarge."""

    files: set[str]
    others: set[str]  # links, devices, ...
    read: Callable[[str, int], bytes]


class TooLarge(Exception):
    """A file has more bytes than it may have."""


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Source]:
    """Yield the files of a folder. Links are not followed, in no part of a path."""
    files, others = set(), set()
    for place, folders, names in os.walk(path):
        where = Path(place)
        relative = where.relative_to(path)
        junk = {name for name in folders if JUNK.search(name)}
        folders[:] = [name for name in folders if name not in junk and len(relative.parts) < DEPTH]
        for name in (*junk, *folders, *names):
            mode = os.lstat(where / name).st_mode
            if name in junk or not stat.S_ISDIR(mode):
                (files if name in junk or stat.S_ISREG(mode) else others).add((relative / name).as_posix())
        if len(files) + len(others) > ENTRIES:
            raise Refused(f"more than {ENTRIES:,} files; {PACK}")

    def read(name: str, limit: int) -> bytes:
        *above, last = name.split("/")
        with contextlib.ExitStack() as stack:
            def opened(part: str | Path, flags: int, **within: int) -> int:
                descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC | flags, **within)
                stack.callback(os.close, descriptor)
                return descriptor

            at = opened(path, os.O_DIRECTORY)
            for part in above:
                at = opened(part, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            file = opened(last, os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise Refused(f"{quoted(name)} is a link or a device: hand in the file itself")
            return _read(os.fdopen(os.dup(file), "rb"), limit)

    yield Source(files, others, read)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[Source]:
    """Yield the files of a zip, after a look at every entry's name, kind and claims."""
    with open(path, "rb") as file:
        _count_entries(file, path.stat().st_size)
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises half a dozen kinds on hostile bytes
            raise Refused(f"not a zip that can be read ({printable(str(error), 80)}); {PACK}") from error
        entries, others, seen = {}, set(), {}
        for entry in archive.infolist():
            if reason := _reason(entry):
                raise Refused(f"an entry named {quoted(entry.orig_filename)}: {reason}; {PACK}")
            name = entry.filename.rstrip("/")
            key = unicodedata.normalize("NFC", name).casefold()
            if key in seen:
                same = "twice the entry" if seen[key] == name else "entries that differ only in case:"
                raise Refused(f"{same} {quoted(name)}; {PACK}")
            seen[key] = name
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                others.add(name)
            elif not entry.is_dir():
                entries[name] = entry
        if clash := next((name for name in entries for key in [unicodedata.normalize("NFC", name).casefold() + "/"]
                          if any(other.startswith(key) for other in seen)), None):
            raise Refused(f"{quoted(clash)} is both a file and a folder; {PACK}")
        if (total := sum(entry.file_size for entry in archive.infolist())) > TOTAL_LIMIT:
            raise Refused(f"it inflates to {total:,} bytes, more than {TOTAL_LIMIT:,}; {PACK}")

        def read(name: str, limit: int) -> bytes:
            entry = entries[name]
            try:
                content = _read(archive.open(entry), limit)
            except (TooLarge, OSError):
                raise
            except Exception as error:
                raise Refused(f"{quoted(name)} cannot be inflated ({printable(str(error), 80)}); {PACK}") from error
            if len(content) > 100_000 and len(content) > RATIO * entry.compress_size:
                raise Refused(f"{quoted(name)} inflates to {len(content):,} bytes from {entry.compress_size:,}: a bomb")
            return content

        yield Source({*entries}, others, read)


def _count_entries(file: BinaryIO, size: int) -> None:
    """Raise Refused for a zip that is too large, or whose directory is: zipfile would read all of it into memory."""
    if size > ZIP_LIMIT:
        raise Refused(f"{size:,} bytes, more than {ZIP_LIMIT:,}; {PACK}")
    file.seek(max(0, size - 65_557))
    tail = file.read()
    place = len(tail) - 22
    if tail[place:place + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":  # a zip with a comment, as zipfile finds it
        place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) < place + 22:
        raise Refused(f"not a zip; {PACK}")
    number, directory = struct.unpack("<10xHL", tail[place:place + 16])
    if number > ENTRIES or directory > 300 * ENTRIES or tail[max(0, place - 20):place].startswith(b"PK\6\7"):  # ZIP64
        raise Refused(f"more than {ENTRIES:,} entries; {PACK}")
    file.seek(0)


def _reason(entry: zipfile.ZipInfo) -> str | None:
    """Return why an entry is refused, or None."""
    name = entry.orig_filename  # .filename ends at a NUL
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "an absolute path"
    if "\\" in name:
        return "a backslash in a path"
    if not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")):
        return "a path that leaves its folder"
    if (not name.isprintable() and not JUNK.search(name)) or "\0" in name or len(name) > 300:
        return "a path with control characters, or too long"
    if entry.flag_bits & 0x2041:
        return "it is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "neither stored nor deflated"
    return None


def _read(file: BinaryIO, limit: int) -> bytes:
    """Return what an open file holds, and close it; the bytes count that really come, whatever its entry claims."""
    with file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise TooLarge
    return content
