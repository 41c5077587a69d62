"""Rows of named cells, and how they are read from JSON, Parquet and data sets of the package `datasets`."""

import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import UserError, quoted

_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}  # their names in `datasets`


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
    declared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    "The values that a column may have, in their order, where the file declares them."

    def place(self, number: int) -> str:
        """Return where a row is, for the beginning of a message."""
        return f"{self.path}:{number}" if self.unit == "line" else f"{self.path}: row {number}"

    def column(self, position: int) -> str:
        """Return a column's name for a message; its number if it has none."""
        name = self.header[position].strip() if position < len(self.header) else ""
        return f"column {quoted(name) if name else position + 1}: "


def read_json(path: Path, text: str) -> Table:
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


def read_parquet(path: Path, content: bytes) -> Table:
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


def read_dataset(path: Path, split: str) -> Table:
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
    columns, declared = {}, {}
    for name in found.column_names:
        names = getattr(found.features[name], "names", None)  # of a ClassLabel
        columns[name] = [names[value] if names and isinstance(value, int) and value >= 0 else value
                         for value in found[name]]
        if names:
            declared[name] = tuple(map(str, names))
    return replace(_of_columns(path, "data set", columns, found.column_names), declared=declared)


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
