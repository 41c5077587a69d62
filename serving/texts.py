"""Read texts to predict, one at a time, in memory for one row: from a file, or from standard input.

    txt      a text a line; an empty line is an empty text
    csv, tsv the first row names the columns; tabs, commas, semicolons or bars, whichever the first row holds
    jsonl    an object a line with the text under one of the names, or the text alone
"""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from common.errors import UserError, quoted
from data.columns import KNOWN
from data.formats import SEPARATORS

TEXT_COLUMNS, ID_COLUMNS = KNOWN["text"], KNOWN["id"]
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LONGEST = 50_000_000  # characters of a row: more is not a text, and might never end


class Row(NamedTuple):
    """One text to predict."""

    id: str  # from the file, or the row's number from 1 up
    text: str
    place: str  # where it stands, for messages


class TextError(UserError):
    """A file of texts cannot be read; the message names file and line."""


def read_texts(path: Path | None, form: str | None = None, text_column: str | None = None,
               id_column: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file, or of standard input if path is None. TextError, when a bad row is reached.

    form: txt, csv, tsv or jsonl; by default that of the file's name, else txt. text_column, id_column: names of columns
    or keys; by default the first of TEXT_COLUMNS that is there, and `id`.
    """
    form = form or FORMATS.get(path.suffix.lower() if path else "", "txt")
    name = str(path) if path else "standard input"
    try:
        with opened(path) as stream:
            lines = checked_lines(stream, name)
            if form == "txt":
                for number, line in enumerate(lines, 1):
                    yield Row(str(number), line.rstrip("\r\n"), f"{name}:{number}")
            else:
                yield from (json_rows if form == "jsonl" else csv_rows)(lines, name, text_column, id_column)
    except OSError as error:
        raise TextError(f"cannot read {name}: {error.strerror or error}") from error


def opened(path: Path | None) -> TextIO:
    """Open a file, or standard input, as UTF-8; bytes that are not UTF-8 become lone surrogates."""
    stream = open(path, "rb") if path else os.fdopen(os.dup(sys.stdin.fileno()), "rb")  # noqa: SIM115
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def checked_lines(stream: TextIO, name: str) -> Iterator[str]:
    """Yield the lines of a stream with their ends; TextError for one that is too long or not UTF-8."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise TextError(f"{name}:{number}: a line of more than {LONGEST:,} characters")
        if wrong := re.search("[\udc80-\udcff]", line):
            utf16 = number == 1 and line[:2] in ("\udcff\udcfe", "\udcfe\udcff")
            what = "this is UTF-16" if utf16 else f"not UTF-8: byte 0x{ord(wrong[0]) - 0xdc00:02x}"
            raise TextError(f"{name}:{number}: {what}; save it as UTF-8")
        yield line


def csv_rows(lines: Iterator[str], name: str, text_column: str | None, id_column: str | None) -> Iterator[Row]:
    """Yield the rows of a table. Empty lines are skipped; a quoted field may hold line breaks."""
    first = next(lines, "")
    separator = next((mark for mark in SEPARATORS if mark in first), ",")
    before = csv.field_size_limit(LONGEST)
    try:
        reader = csv.reader(chained(first, lines), delimiter=separator, strict=True)
        header = [column.strip() for column in next(reader, [])]
        text_at = find_column(header, name, text_column, TEXT_COLUMNS)
        id_at = find_column(header, name, id_column, ID_COLUMNS, needed=id_column is not None)
        line = reader.line_num + 1
        number = 0
        for fields in reader:
            if fields:
                number += 1
                if len(fields) <= max(text_at, id_at):
                    raise TextError(f"{name}:{line}: {len(fields)} fields where the first row has {len(header)}")
                yield Row(fields[id_at].strip() if id_at >= 0 else str(number), fields[text_at], f"{name}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise TextError(f"{name}:{reader.line_num}: {error}; a field that begins with a quote mark must end with one, "
                        "and double those inside") from error
    finally:
        csv.field_size_limit(before)


def json_rows(lines: Iterator[str], name: str, text_key: str | None, id_key: str | None) -> Iterator[Row]:
    """Yield the rows of a file of JSON values, one a line. Empty lines are skipped."""
    number = 0
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        number += 1
        place = f"{name}:{line_number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TextError(f"{place}: not JSON: {quoted(error, 100)}; each line is one object") from error
        row = value if isinstance(value, dict) else {"text": value}
        key = text_key or next((key for key in TEXT_COLUMNS if key in row), "text")
        if not isinstance(row.get(key), str):
            raise TextError(f"{place}: there is no text under {quoted(key)}; its keys are {some(list(row))}")
        if id_key and id_key not in row:
            raise TextError(f"{place}: there is no {quoted(id_key)}; its keys are {some(list(row))}")
        yield Row(str(row.get(id_key or "id", number)), row[key], place)


def find_column(header: Sequence[str], name: str, wanted: str | None, usual: Sequence[str], needed: bool = True) -> int:
    """Return the position of a column by name, whatever the case; -1 if it is not there and not needed."""
    found = [column.lower() for column in header]
    for column in (wanted,) if wanted else usual:
        if found.count(column.lower()) == 1:
            return found.index(column.lower())
        if column.lower() in found:
            raise TextError(f"{name}:1: two columns are named {quoted(column)}")
    if not needed:
        return -1
    raise TextError(f"{name}:1: no column is named {wanted or ', '.join(usual[:-1]) + ' or ' + usual[-1]}; "
                    f"the first row names {some(header)}")


def some(names: Sequence[Any]) -> str:
    """Return names for a message, at most 200 characters of them."""
    return quoted(", ".join(map(str, names)), 200)


def chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield the first line and then the others."""
    yield first
    yield from lines
