"""Read train, dev and unlabelled test files: tab separated, with the columns named in the first row.

Whatever the bytes are, the reader returns Examples or raises DataError, in memory proportional to the file's size.
Files of your own may have other formats and columns: data/own.py finds them, and reads the rows with `read_rows`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import quoted
from data.formats import LINE_END, decode, read_bytes, separated
from data.labels import Labels
from data.records import DataError, Nested, Table
from data.rules import COURSE_RULES, Rules

__all__ = ["ID", "LABEL", "SENTENCE", "ColumnError", "DataError", "Example", "IdError", "LabelError", "read_examples",
           "read_rows"]

ID, SENTENCE, LABEL = "id", "sentence", "sentiment"
MOST_SHOWN = 10  # wrong rows named at once


class ColumnError(DataError):
    """A column that is needed is not there, or there twice; `role` is text, label or id."""

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message)
        self.role = role


class IdError(DataError):
    """An id is empty, repeated or impossible in a prediction file."""


class LabelError(DataError):
    """A cell of the label column is no label."""


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

    Raises DataError for anything else, and for an id that is empty, repeated or impossible in a prediction file. If
    several rows are wrong, the message names up to ten of them.
    """
    path = Path(path)
    table = separated(path, decode(path, read_bytes(path)), "\t")
    columns = _find_columns(table, (ID, SENTENCE, LABEL) if labelled else (ID, SENTENCE))
    return read_rows(table, columns, Labels(num_labels, label_names) if labelled else None, rules)


def read_rows(table: Table, columns: Mapping[str, int], labels: Labels | None, rules: Rules) -> list[Example]:
    """Read the rows of a table into Examples, as `read_examples` says.

    columns: the position of ID, SENTENCE and LABEL; without ID the rows are numbered from 1. labels: None to leave the
    labels unread. DataError for a table without rows, too.
    """
    examples: list[Example] = []
    first: DataError | None = None  # what is wrong with the first wrong row
    others: list[int] = []  # the numbers of other wrong rows
    seen: dict[str, int] = {}
    count = 0
    for count, (number, fields) in enumerate(table.rows, start=1):
        row = _Row(table, columns, number, fields, labels)
        try:
            row.check_shape()
            examples.append(Example(row.id(seen) if ID in columns else str(count), row.sentence(rules),
                                    row.label() if labels else None))
        except DataError as error:
            if first is None:
                first = error.with_traceback(None)
            else:
                others.append(number)
    if first is not None:
        raise _all_at_once(first, others, table.unit)
    if not count:
        raise DataError(f"{table.path}: the file holds column names but no rows")
    return examples


def _all_at_once(first: DataError, others: list[int], unit: str) -> DataError:
    """Return the first error, with the numbers of the other wrong rows in its message."""
    if others:
        shown = ", ".join(map(str, others[:MOST_SHOWN - 1]))
        more = f" and {len(others) - MOST_SHOWN + 1} more" if len(others) >= MOST_SHOWN else ""
        first.args = (f"{first}; also wrong: {unit} {shown}{more}",)
    return first


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, with what an error message about it needs."""

    table: Table
    columns: Mapping[str, int]
    number: int
    fields: list[str]
    labels: Labels | None

    def check_shape(self) -> None:
        """DataError for too few or too many fields, or a field that holds several rows."""
        have, want = len(self.fields), len(self.table.header)
        for position, field in enumerate(self.fields):
            if self.table.separator == "\t" and "\t" in field and self.swallows_rows(position, field):
                raise self.error(position, "a quote opens here and runs over whole rows; close it, or write a sentence "
                                           'that begins with a quote mark as """..."')
        if have < want:
            raise self.error(have, f"missing: {have} fields where the first row has {want}")
        if have > want:
            separator = {"\t": "tab", ",": "comma"}.get(self.table.separator, "separator")
            raise DataError(f"{self.table.place(self.number)}: {have} fields where the first row has {want}; "
                            f"put quote marks around a field that holds a {separator}")

    def swallows_rows(self, position: int, field: str) -> bool:
        """Tell whether a field that holds tabs and line breaks is several rows, caught between two quote marks.

        It is if each line break in it ends a row with as many fields as there are columns, and with a label where the
        label should be: then the quote marks belong to sentences.
        """
        rows = [[*self.fields[:position]]]
        for line in LINE_END.split(field):
            rows[-1] += line.split("\t")
            rows.append([])
        rows = rows[:-1]
        rows[-1] += self.fields[position + 1:]
        if len(rows) < 2 or any(len(row) != len(self.table.header) for row in rows):
            return False
        return self.labels is None or all(self.labels.parse(row[self.columns[LABEL]].strip()) is not None
                                          for row in rows)

    def id(self, seen: dict[str, int]) -> str:
        """Return the row's id, and enter it in `seen` (id -> number of the row)."""
        position = self.columns[ID]
        value = self.fields[position].strip()
        if not value:
            raise self.error(position, "the id is empty", IdError)
        if "," in value or not value.isprintable():
            raise self.error(position, f"the id {quoted(value)} holds a comma or a control character; "
                                       "the rows of a prediction file, `id, label`, cannot hold it", IdError)
        if value in seen:
            raise self.error(position, f"the id {quoted(value)} was used before, on {self.table.unit} {seen[value]}",
                             IdError)
        seen[value] = self.number
        return value

    def sentence(self, rules: Rules) -> str:
        """Return the sentence, repaired by the rules."""
        position = self.columns[SENTENCE]
        if isinstance(self.fields[position], Nested):
            raise self.error(position, "a text is wanted here, not a list or an object")
        text = rules(self.fields[position])
        if not text.strip():
            raise self.error(position, "the sentence is empty")
        return text

    def label(self) -> int:
        """Return the row's label."""
        if isinstance(self.fields[self.columns[LABEL]], Nested):
            raise self.error(self.columns[LABEL], "one label is wanted here, not a list or an object", LabelError)
        cell = self.fields[self.columns[LABEL]].strip()
        label = self.labels.parse(cell)
        if label is None:
            problem = f"{quoted(cell)} is not a label; expected {self.labels.wanted}"
            raise self.error(self.columns[LABEL], problem, LabelError)
        return label

    def error(self, position: int, problem: str, kind: Callable[[str], DataError] = DataError) -> DataError:
        """Return an error for the field at `position`. Line breaks in earlier fields move it to a later line."""
        breaks = sum(len(LINE_END.findall(field)) for field in self.fields[:position]) if self.table.separator else 0
        return kind(f"{self.table.place(self.number + breaks)}: {self.table.column(position)}{problem}")


def _find_columns(table: Table, names: Sequence[str]) -> dict[str, int]:
    """Return the position of each named column."""
    found = [name.strip() for name in table.header]
    for name in names:
        if found.count(name) != 1:
            problem = "two columns are" if found.count(name) else "no column is"
            hint = "; columns are separated by tabs" if len(found) == 1 else ""
            raise ColumnError(f"{table.path}:1: {problem} named {name!r}; the first row must name the columns, "
                              f"here it names {quoted(', '.join(found), 200)}{hint}",
                              {ID: "id", SENTENCE: "text", LABEL: "label"}[name])
    return {name: found.index(name) for name in names}
