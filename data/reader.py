"""Read train, dev and unlabelled test files: tab separated, with the columns named in the first row.

Whatever the bytes are, the reader returns Examples or raises DataError, in memory proportional to the file's size.
"""

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, quoted
from data.rules import COURSE_RULES, Rules

ID, SENTENCE, LABEL = "id", "sentence", "sentiment"

_QUOTE_HELP = 'close it, or write a sentence that begins with a quote mark as """..."'
_LINE_END = re.compile(r"\r\n|\r|\n")
_FIELD_END = re.compile(r"[\t\r\n]|\Z")


class DataError(UserError):
    """Something is wrong with a data file; the message names the file and, if it can, line and column."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data file."""

    id: str  # as in the file, without white space at its ends
    text: str  # the sentence, repaired by the rules
    label: int | None  # 0 .. num_labels - 1; None if the file was read as unlabelled


def read_examples(path: str | os.PathLike, *, labelled: bool, num_labels: int | None = None,
                  label_names: Sequence[str] | None = None, rules: Rules = COURSE_RULES) -> list[Example]:
    """Read a data file into Examples, in file order.

    The first row names the columns: `id`, `sentence` and, if `labelled`, `sentiment`; other columns are ignored. The
    file is UTF-8, with or without a byte order mark, with any line ends; empty lines are skipped. A field that begins
    with a quote mark is quoted as in CSV: it may hold line breaks and tabs, and its inner quote marks are doubled.

    Labels are integers from 0 to `num_labels` - 1, or names from `label_names`. `num_labels` is by default the number
    of names; without names, any integer from 0 will do. If the names look like integers, only names are read.

    Raises DataError for anything else, and for an id that is empty, repeated or impossible in a prediction file.
    """
    path = Path(path)
    text = _decode(path)
    labels = _Labels(num_labels, label_names) if labelled else None
    examples: list[Example] = []
    seen: dict[str, int] = {}
    with _fields_of_any_size(len(text)):
        rows = _rows(path, text)
        _, header = next(rows)  # the text is not empty, so this row exists
        columns = _find_columns(path, header, (ID, SENTENCE, LABEL) if labelled else (ID, SENTENCE))
        for line, fields in rows:
            row = _Row(path, header, columns, line, fields)
            row.check_shape()
            examples.append(Example(row.id(seen), row.sentence(rules), row.label(labels) if labels else None))
    if not examples:
        raise DataError(f"{path}: the file holds column names but no rows")
    return examples


class _Labels:
    """The values that the label column may hold."""

    def __init__(self, num_labels: int | None, names: Sequence[str] | None) -> None:
        self.by_name = {name: label for label, name in enumerate(names or ())}
        self.count = num_labels if num_labels is not None else len(self.by_name) or None
        self.integers = not any(re.fullmatch("[0-9]+", name) for name in self.by_name)
        wanted = f"an integer from 0 to {self.count - 1}" if self.count else "an integer from 0"
        names_wanted = f"one of {', '.join(map(quoted, self.by_name))}"
        self.wanted = " or ".join([wanted] * self.integers + [names_wanted] * bool(self.by_name))

    def parse(self, cell: str) -> int | None:
        """Return the label in `cell`; None for a wrong one."""
        if cell in self.by_name:
            return self.by_name[cell]
        # At most nine digits: nobody has more labels, and int() refuses very long numbers.
        if not self.integers or not re.fullmatch("[0-9]{1,9}", cell):
            return None
        label = int(cell)
        return label if self.count is None or label < self.count else None


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, with what an error message about it needs."""

    path: Path
    header: list[str]
    columns: dict[str, int]
    line: int
    fields: list[str]

    def check_shape(self) -> None:
        """DataError for too few or too many fields, or a field that holds several rows."""
        for position, field in enumerate(self.fields):
            if "\t" in field and _LINE_END.search(field):
                raise self.error(position, f"a quote opens here and runs over whole rows; {_QUOTE_HELP}")
        have, want = len(self.fields), len(self.header)
        if have < want:
            raise self.error(have, f"missing: {have} fields where the first row has {want}")
        if have > want:
            raise DataError(f"{self.path}:{self.line}: {have} fields where the first row has {want}; "
                            "put quote marks around a field that holds a tab")

    def id(self, seen: dict[str, int]) -> str:
        """Return the row's id, and enter it in `seen` (id -> line)."""
        position = self.columns[ID]
        value = self.fields[position].strip()
        if not value:
            raise self.error(position, "the id is empty")
        if "," in value or not value.isprintable():
            raise self.error(position, f"the id {quoted(value)} holds a comma or a control character; "
                                       "the rows of a prediction file, `id, label`, cannot hold it")
        if value in seen:
            raise self.error(position, f"the id {quoted(value)} was used before, on line {seen[value]}")
        seen[value] = self.line
        return value

    def sentence(self, rules: Rules) -> str:
        """Return the sentence, repaired by the rules."""
        text = rules(self.fields[self.columns[SENTENCE]])
        if not text.strip():
            raise self.error(self.columns[SENTENCE], "the sentence is empty")
        return text

    def label(self, labels: _Labels) -> int:
        cell = self.fields[self.columns[LABEL]].strip()
        label = labels.parse(cell)
        if label is None:
            raise self.error(self.columns[LABEL], f"{quoted(cell)} is not a label; expected {labels.wanted}")
        return label

    def error(self, position: int, problem: str) -> DataError:
        """Return a DataError for the field at `position`. Line breaks in earlier fields move it to a later line."""
        line = self.line + sum(len(_LINE_END.findall(field)) for field in self.fields[:position])
        return DataError(f"{self.path}:{line}: {_column(self.header, position)}{problem}")


def _decode(path: Path) -> str:
    """Return the file's text. DataError unless it is a regular file in UTF-8 without NULs."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe might never end
            raise DataError(f"{path}: not a regular file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
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


@contextlib.contextmanager
def _fields_of_any_size(limit: int) -> Iterator[None]:
    """Let csv read fields of up to `limit` characters inside the block; its own limit is 128 KiB."""
    before = csv.field_size_limit(min(limit, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every row that is not empty, with the line it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            header = header or fields
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error:
        raise _quote_error(path, text, line, header) from None


def _find_columns(path: Path, header: list[str], names: Sequence[str]) -> dict[str, int]:
    """Return the position of each named column."""
    found = [name.strip() for name in header]
    for name in names:
        if found.count(name) != 1:
            problem = "two columns are" if found.count(name) else "no column is"
            hint = "; columns are separated by tabs" if len(found) == 1 else ""
            raise DataError(f"{path}:1: {problem} named {name!r}; the first row must name the columns, "
                            f"here it names {quoted(', '.join(found), 200)}{hint}")
    return {name: found.index(name) for name in names}


def _quote_error(path: Path, text: str, line: int, header: list[str]) -> DataError:
    """Return the error for a row that csv could not read: which of its fields has wrong quotes. It begins on `line`."""
    start = position = 0
    for _ in range(line - 1):
        start = _LINE_END.search(text, start).end()
    while (end := _field_end(text, start)) is not None:
        start = end + 1
        position += 1
    closing = _closing_quote(text, start)
    problem = "a quote opens here and never closes" if closing < 0 else (
        f"a quote opens here and closes on line {_line_of(text[:closing])} where the field goes on")
    place = f"{path}:{_line_of(text[:start])}: {_column(header, position)}"
    return DataError(f"{place}{problem}; {_QUOTE_HELP}")


def _field_end(text: str, start: int) -> int | None:
    """Return where the field that begins at `start` ends; None if its quotes are wrong."""
    if text[start:start + 1] != '"':
        return _FIELD_END.search(text, start).start()
    closing = _closing_quote(text, start)
    return closing + 1 if closing >= 0 and _FIELD_END.match(text, closing + 1) else None


def _closing_quote(text: str, opening: int) -> int:
    """Return where the quote that opens at `opening` closes; -1 if it never does."""
    end = text.find('"', opening + 1)
    while end >= 0 and text[end + 1:end + 2] == '"':
        end = text.find('"', end + 2)
    return end


def _line_of(before: str) -> int:
    """Return the number of the line that follows the text `before`."""
    return len(_LINE_END.findall(before)) + 1


def _column(header: Sequence[str], position: int) -> str:
    """Return a column's name for a message; its number if it has none."""
    name = header[position].strip() if position < len(header) else ""
    return f"column {quoted(name) if name else position + 1}: "
