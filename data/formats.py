"""The formats of data files, read into one kind of table.

Separated text, JSON lines, Parquet, each of them gzipped, and data sets of Hugging Face's package `datasets`. What a
file is, is told by its content, not by its name.
"""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import UserError, quoted
from common.files import open_regular

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}  # in the order in which they are tried
LARGEST_UNPACKED = 4 << 30  # bytes; a small gzip file can be made to grow without end

LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTE_HELP = 'close it, or write a sentence that begins with a quote mark as """..."'
_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}  # their names in `datasets`

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


class DataError(UserError):
    """Something is wrong with a data file; the message names the file and, if it can, line and column."""


class Nested(str):
    """A cell that held a list or an object, as JSON: no text or label."""


@dataclass(frozen=True)
class Table:
    """A data file as rows of cells, each cell a string, with the columns named."""

    path: Path
    kind: str  # "tab separated", "JSON lines" and so on
    header: list[str]
    rows: Iterable[tuple[int, list[str]]]  # (line on which the row begins, or its number; its cells)
    separator: str = ""  # of separated text
    unit: str = "line"  # what the rows' numbers count: "line" or "row"

    def place(self, number: int) -> str:
        """Return where a row is, for the beginning of a message."""
        return f"{self.path}:{number}" if self.unit == "line" else f"{self.path}: row {number}"

    def column(self, position: int) -> str:
        """Return a column's name for a message; its number if it has none."""
        name = self.header[position].strip() if position < len(self.header) else ""
        return f"column {quoted(name) if name else position + 1}: "


def read_table(path: str | os.PathLike, separator: str | None = None, known: Iterable[str] = (),
               split: str = "train") -> Table:
    """Read a data file of any of the formats.

    separator: of separated text; by default the one for which most columns of the first row are `known` (lower case),
    then the one with most columns. split: train, dev or test, for a data set of the package `datasets`.
    Raises DataError for anything else, also where a package is missing.
    """
    path = Path(path)
    if is_dataset(path):
        return _read_dataset(path, split)
    content = read_bytes(path)
    if content.startswith(b"\x1f\x8b"):
        content = _unpack(path, content)
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content)
    text = decode(path, content)
    if separator is None and text.lstrip()[:1] in ("{", "["):
        return _read_json(path, text)
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


# ---- records: JSON, Parquet, `datasets` ------------------------------------------------------------------------------


def _read_json(path: Path, text: str) -> Table:
    """Return the table in JSON lines, or in one JSON list of objects; a row's columns are its keys."""
    records: list[tuple[int, Any]] = []
    if text.lstrip().startswith("["):
        unit, kind = "row", "JSON list"
        records = list(enumerate(_parse_json(f"{path}", text), start=1))
    else:
        unit, kind = "line", "JSON lines"
        for number, line in enumerate(re.split("\r\n|\n|\r", text), start=1):
            if line.strip():
                records.append((number, _parse_json(f"{path}:{number}", line)))
    header: dict[str, None] = {}
    for number, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{path}: {unit} {number} is not an object like {{\"text\": ..., \"label\": ...}}")
        header.update(dict.fromkeys(record))
    return Table(path, kind, list(header),
                 [(number, [_cell(record.get(name)) for name in header]) for number, record in records], unit=unit)


def _parse_json(place: str, text: str) -> Any:
    """Return a value from JSON. DataError if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deep" if isinstance(error, RecursionError) else str(error))
        raise DataError(f"{place}: this line is not JSON: {reason}") from error


def _read_parquet(path: Path, content: bytes) -> Table:
    """Return the table in a Parquet file."""
    if find_spec("pyarrow") is None:
        raise DataError(f"{path}: this is a Parquet file, and reading it needs the package pyarrow\n"
                        "Install it with `.venv/bin/python -m pip install pyarrow`, or save the table as CSV")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        return _of_columns(path, "Parquet", {name: table.column(position).to_pylist()
                                             for position, name in enumerate(table.column_names)},
                           table.column_names)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: this Parquet file is damaged: {quoted(error, 200)}") from error


def is_dataset(path: Path) -> bool:
    """Tell whether a path is a folder saved by the package `datasets`, or could be a data set's name."""
    if path.is_dir():
        return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return not os.path.lexists(path) and not path.suffix and not path.is_absolute() and len(path.parts) <= 2 \
        and find_spec("datasets") is not None


def _read_dataset(path: Path, split: str) -> Table:
    """Return a split of a data set of the package `datasets`: a folder, or a name on the hub."""
    if find_spec("datasets") is None:
        raise DataError(f"{path}: this is a folder of the package `datasets`, which is not installed\n"
                        "Install it with `.venv/bin/python -m pip install datasets`, or save the table as CSV")
    import datasets

    try:
        found = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.load_dataset(str(path))
    except Exception as error:  # the package raises whatever its readers raise
        raise DataError(f"cannot read the data set {path}: {quoted(error, 200)}") from error
    if isinstance(found, dict):
        name = next((name for name in _SPLITS[split] if name in found), None)
        if name is None:
            raise DataError(f"the data set {path} has no split {_SPLITS[split][0]}, only {', '.join(found)}")
        found = found[name]
    columns = {}
    for name in found.column_names:
        names = getattr(found.features[name], "names", None)  # of a ClassLabel
        columns[name] = [names[value] if names and isinstance(value, int) and value >= 0 else value
                         for value in found[name]]
    return _of_columns(path, "data set", columns, found.column_names)


def _of_columns(path: Path, kind: str, columns: dict[str, list], header: Sequence[str]) -> Table:
    """Return a table of lists of values, one for each column."""
    if len(columns) != len(header):
        raise DataError(f"{path}: two columns have the same name; it names {quoted(', '.join(header), 200)}")
    cells = zip(*([_cell(value) for value in values] for values in columns.values()), strict=True)
    return Table(path, kind, list(header), [(number, list(row)) for number, row in enumerate(cells, start=1)],
                 unit="row")


def _cell(value: Any) -> str:
    """Return a value as a cell: true and false as JSON spells them, nothing as an empty cell."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, pandas' word for nothing
        return ""
    if isinstance(value, (bool, list, dict)):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if isinstance(value, bool) else Nested(text)
    return str(value)
