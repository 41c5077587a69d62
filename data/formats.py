"""The formats of data files, read into one kind of table.

Separated text, JSON lines, Parquet, each of them gzipped, and data sets of Hugging Face's package `datasets`. What a
file is, is told by its content, not by its name.
"""

import contextlib
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import quoted
from common.files import open_regular
from data.records import DataError, Table, is_dataset, read_dataset, read_json, read_parquet

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}  # in the order in which they are tried
LARGEST_UNPACKED = 4 << 30  # bytes; a small gzip file can be made to grow without end

LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTE_HELP = 'close it, or write a sentence that begins with a quote mark as """..."'

_EXCEL = "this is an Excel workbook; in Excel, save the sheet as `CSV UTF-8 (comma delimited)`, and give that file"
# First bytes -> what a file with them is, for files that hold no table that we read.
_FOREIGN = {
    b"\xff\xfe": "this is UTF-16; save the file as UTF-8", b"\xfe\xff": "this is UTF-16; save the file as UTF-8",
    b"\xd0\xcf\x11\xe0": _EXCEL, b"PK\x03\x04": "this is a zip file; unpack it, and give the file in it",
    b"BZh": "this is a bzip2 file; unpack it first", b"\xfd7zXZ": "this is an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "this is a zstd file; unpack it first",
    b"%PDF": "this is a PDF; a table of texts and labels is needed",
    b"{\\rtf": "this is a document of a word processor; save it as plain text in UTF-8",
    b"ARROW1": "this is an Arrow file; save it as Parquet",
}
_UNREAD = {b"\x1f\x8b": "this is a gzip file; unpack it first", b"PAR1": "this is a Parquet file, not text"}
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE)


def read_table(path: str | os.PathLike, separator: str | None = None, known: Iterable[str] = (),
               split: str = "train") -> Table:
    """Read a data file of any of the formats.

    separator: of separated text; by default the one for which most columns of the first row are `known` (lower case),
    then the one with most columns. split: train, dev or test, for a data set of the package `datasets`.
    Raises DataError for anything else, also where a package is missing.
    """
    path = Path(path)
    if is_dataset(path):
        return read_dataset(path, split)
    content = read_bytes(path)
    if content.startswith(b"\x1f\x8b"):
        content = _unpack(path, content)
    if content.startswith(b"PAR1"):
        return read_parquet(path, content)
    text = decode(path, content)
    if separator is None and text.lstrip()[:1] in ("{", "["):
        return read_json(path, text)
    if separator is None:
        separator = _sniff(text, frozenset(known))
    return separated(path, text, separator)


def lines(path: Path) -> Table:
    """Return plain text as a table of one column, a text a line; empty lines are skipped."""
    content = read_bytes(path)
    text = decode(path, _unpack(path, content) if content.startswith(b"\x1f\x8b") else content)
    rows = [(number, [line]) for number, line in enumerate(LINE_END.split(text), start=1) if line.strip()]
    return Table(path, "plain text, a text a line", ["text"], rows)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file. DataError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def decode(path: Path, content: bytes) -> str:
    """Return the text of a file's bytes. DataError unless they are UTF-8 without NULs, with or without a BOM."""
    for start, what in (_FOREIGN | _UNREAD).items():
        if content.startswith(start):
            is_excel = start == b"PK\x03\x04" and b"xl/" in content
            raise DataError(f"{path}:1: {_EXCEL if is_excel else what}")
    if _WEB_PAGE.match(content):
        raise DataError(f"{path}:1: this is a web page, not a table; was the download redirected?")
    if _looks_like_utf16(content):
        raise DataError(f"{path}:1: this is UTF-16; save the file as UTF-8")
    bom = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = content[bom:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = bom + error.start
        before = content[bom:offset].decode("utf-8")
        raise DataError(f"{path}:{_line_of(before)}: not UTF-8: byte 0x{content[offset]:02x} "
                        f"at offset {offset} of the file; save it as UTF-8") from None
    if (nul := text.find("\0")) >= 0:
        raise DataError(f"{path}:{_line_of(text[:nul])}: a NUL character: the file is damaged, or not text")
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text


def _looks_like_utf16(content: bytes) -> bool:
    """Tell whether every second byte of the beginning is NUL, as in UTF-16 of Latin letters without a BOM."""
    start = content[:64]
    return len(start) >= 8 and any(not any(start[first::2]) and all(start[1 - first::2]) for first in (0, 1))


def _unpack(path: Path, content: bytes) -> bytes:
    """Return what a gzip file holds. DataError if it is damaged or grows too large."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(LARGEST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: this gzip file is damaged: {error}") from error
    if len(unpacked) > LARGEST_UNPACKED:
        raise DataError(f"{path}: unpacked, this gzip file is larger than {LARGEST_UNPACKED >> 30} GB")
    return unpacked


# ---- separated text --------------------------------------------------------------------------------------------------


def separated(path: Path, text: str, separator: str) -> Table:
    """Return the table in separated text; its rows are read while they are asked for, and empty ones skipped."""
    rows = _rows(path, text, separator)
    _, header = next(rows)  # the text is not empty, so this row exists
    return Table(path, f"{SEPARATORS.get(separator, quoted(separator))} separated", header, rows, separator)


def _sniff(text: str, known: frozenset[str]) -> str:
    """Return the separator of the first row: the one with most known columns, then with most columns, then a tab."""
    def columns(separator: str) -> tuple[int, int]:
        try:
            with _fields_of_any_size(len(text)):
                lines = io.StringIO(text.lstrip("\r\n"), newline="")
                header = next(csv.reader(lines, delimiter=separator, strict=True))
        except csv.Error:
            return 0, 0
        return sum(name.strip().lower() in known for name in header), len(header)

    return max(SEPARATORS, key=columns)  # of equal ones the first


@contextlib.contextmanager
def _fields_of_any_size(limit: int) -> Iterator[None]:
    """Let csv read fields of up to `limit` characters inside the block; its own limit is 128 KiB."""
    before = csv.field_size_limit(min(limit, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every row that is not empty, with the line it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    line = 1
    while True:
        try:
            with _fields_of_any_size(len(text)):  # for this row only: between two rows others may read
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            raise _quote_error(path, text, line, header, separator) from None
        header = header or fields
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _quote_error(path: Path, text: str, line: int, header: list[str], separator: str) -> DataError:
    """Return the error for a row that csv could not read: which of its fields has wrong quotes. It begins on `line`."""
    start = position = 0
    for _ in range(line - 1):
        start = LINE_END.search(text, start).end()
    field_end = re.compile(rf"[{re.escape(separator)}\r\n]|\Z")
    while (end := _field_end(text, start, field_end)) is not None:
        start = end + 1
        position += 1
    closing = _closing_quote(text, start)
    problem = "a quote opens here and never closes" if closing < 0 else (
        f"a quote opens here and closes on line {_line_of(text[:closing])} where the field goes on")
    table = Table(path, "", header, ())
    return DataError(f"{table.place(_line_of(text[:start]))}: {table.column(position)}{problem}; {_QUOTE_HELP}")


def _field_end(text: str, start: int, field_end: re.Pattern) -> int | None:
    """Return where the field that begins at `start` ends; None if its quotes are wrong."""
    if text[start:start + 1] != '"':
        return field_end.search(text, start).start()
    closing = _closing_quote(text, start)
    return closing + 1 if closing >= 0 and field_end.match(text, closing + 1) else None


def _closing_quote(text: str, opening: int) -> int:
    """Return where the quote that opens at `opening` closes; -1 if it never does."""
    end = text.find('"', opening + 1)
    while end >= 0 and text[end + 1:end + 2] == '"':
        end = text.find('"', end + 2)
    return end


def _line_of(before: str) -> int:
    """Return the number of the line that follows the text `before`."""
    return len(LINE_END.findall(before)) + 1
