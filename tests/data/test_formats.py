"""The formats: the same table from each of them, told apart by content; what is refused, and in which words."""

import csv
import gzip
import io
import json
import sys
import tracemalloc
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import formats, records
from data.columns import KNOWN_NAMES
from data.formats import read_table
from data.records import DataError, Nested

HEADER, ROWS = ["id", "text", "label"], [["a", "good, or\nbad; \"so\"", "yes"], ["b", "x\ty", "no"]]


def separated(separator, header=HEADER, rows=ROWS):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows([header, *rows])
    return file.getvalue().encode()


def jsonl(header=HEADER, rows=ROWS):
    return "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows).encode()


def parquet(columns):
    package = pytest.importorskip("pyarrow")
    file = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(package.table(columns), file)
    return file.getvalue()


CONTENTS = {
    **{f"{name} separated": lambda separator=separator: separated(separator)
       for separator, name in formats.SEPARATORS.items()},
    "JSON lines": jsonl,
    "JSON list": lambda: json.dumps([dict(zip(HEADER, row, strict=True)) for row in ROWS]).encode(),
    "Parquet": lambda: parquet({name: list(column) for name, column in
                                zip(HEADER, zip(*ROWS, strict=True), strict=True)}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_the_same_table_from_every_format(tmp_path, kind, packed):
    """Catches: a format told by the file's name, a line break or separator in a cell, gzip for some formats only."""
    content = CONTENTS[kind]()
    path = tmp_path / "data.bin"
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_table(path, known=KNOWN_NAMES)
    assert table.kind == kind and table.header == HEADER
    assert [row for _, row in table.rows] == ROWS


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(list(formats.SEPARATORS)))
def test_round_trip(tmp_path_factory, rows, separator):
    """Catches: any character that does not survive in separated text (csv's writer is the oracle) or JSON lines."""
    path, header = tmp_path_factory.mktemp("x") / "x", ["text", "label"]
    path.write_bytes(separated(separator, header, rows))
    assert [tuple(row) for _, row in read_table(path, known=KNOWN_NAMES).rows] == rows
    path.write_bytes(jsonl(header, rows))
    assert [tuple(row) for _, row in read_table(path, known=KNOWN_NAMES).rows] == rows


@pytest.mark.parametrize("header, separator", [
    ("text\tlabel", "\t"), ("text,label", ","), ("text;label", ";"), ("text|label", "|"), ("text", "\t"),
    ("a,b,c\ttext\tlabel", "\t"),  # two known columns against none
    ("text;label,a,b,c", ";"), ('"a,b",text,label', ","), ("a,b,c", ","), ("TEXT, Label", ",")])
def test_the_separator_is_that_of_the_known_columns(tmp_path, header, separator):
    """Catches: a separator chosen by its number in the first row alone, or by that in a quoted name."""
    path = tmp_path / "x.csv"
    path.write_text(header + "\n")
    assert read_table(path, known=KNOWN_NAMES).separator == separator


def test_the_separator_may_be_given(tmp_path):
    """Catches: a separator that was given and is passed over."""
    path = tmp_path / "x.csv"
    path.write_text("text,label~x\na,b~c\n")
    assert list(read_table(path, separator="~", known=KNOWN_NAMES).rows) == [(2, ["a,b", "c"])]


def test_values_become_cells(tmp_path):
    """Catches: true as True, a missing value as the word None or nan, a list taken for a label."""
    path = tmp_path / "x"
    path.write_text('{"a": true, "b": null, "c": 1, "d": 1.5}\n\n{"a": false, "e": [1, 2], "f": {"g": "é"}}\n')
    table = read_table(path)
    assert table.header == ["a", "b", "c", "d", "e", "f"]
    assert table.rows == [(1, ["true", "", "1", "1.5", "", ""]), (3, ["false", "", "", "", "[1, 2]", '{"g": "é"}'])]
    assert [isinstance(cell, Nested) for cell in table.rows[1][1]] == [False] * 4 + [True] * 2
    path.write_bytes(parquet({"a": [True, None], "b": [float("nan"), 2.0], "c": [3, None]}))
    assert [row for _, row in read_table(path).rows] == [["true", "", "3"], ["", "2.0", ""]]


BAD = {
    "UTF-16 with a mark": ("text,label\n".encode("utf-16"), "this is UTF-16; save the file as UTF-8"),
    "UTF-16 without": ("text,label\nx,y".encode("utf-16-le"), "this is UTF-16"),
    "UTF-16, big end first": ("text,label\nx,y".encode("utf-16-be"), "this is UTF-16"),
    "Excel": (b"PK\x03\x04" + b"\0" * 30 + b"xl/workbook.xml", "Excel workbook; in Excel, save the sheet as `CSV"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Excel workbook"),
    "zip": (b"PK\x03\x04" + bytes(99), "this is a zip file; unpack it"),
    "web page": (b"\n<!DOCTYPE html><html>", "this is a web page"),
    "PDF": (b"%PDF-1.7", "this is a PDF"),
    "gzip cut": (gzip.compress(separated(",") * 99)[:60], "this gzip file is damaged"),
    "gzip of an Excel file": (gzip.compress(b"PK\x03\x04 xl/"), "Excel workbook"),
    "Parquet cut": (b"PAR1" + bytes(40), "this Parquet file is damaged"),
    "JSON cut": (b'{"text": "a"}\n{"text": ', "x.csv:2: this line is not JSON"),
    "JSON nested deep": (b'{"text":' + b"[" * 100_000, "x.csv:1: this line is not JSON: nested too deep"),
    "JSON of other values": (b'{"text": "a"}\n3', "x.csv: line 2 is not an object"),
    "JSON list of texts": (b'["a", "b"]', "x.csv: row 1 is not an object"),
    "empty in gzip": (gzip.compress(b""), "the file is empty"),
    "comma, never closed": (b'text,label\n"x,1\ny,2\n', ":2: column 'text': a quote opens here and never closes"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_what_is_refused(tmp_path, content, said):
    """Catches: a traceback of a library, or `save it as UTF-8` for a file that is not text."""
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError) as caught:
        list(read_table(path, known=KNOWN_NAMES).rows)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text().map(str.encode), st.sampled_from(
    [b"", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"PAR1", b"{", b"[", b"PK\x03\x04", b"text,label\n", b'{"text": "a"}\n']))
def test_fuzz(tmp_path_factory, content, start):
    """Catches: any exception but DataError, for any bytes at all."""
    path = tmp_path_factory.mktemp("x") / "x"
    path.write_bytes(start + content)
    try:
        table = read_table(path, known=KNOWN_NAMES)
        assert all(isinstance(cell, str) for _, row in table.rows for cell in row)
    except DataError:
        pass


def test_a_gzip_file_that_grows_without_end(tmp_path, monkeypatch):
    """Catches: a small file that takes all memory."""
    monkeypatch.setattr(formats, "LARGEST_UNPACKED", 1000)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"a" * 50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpacked, this gzip file is larger than"):
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_parquet_without_its_package(tmp_path, monkeypatch):
    """Catches: an ImportError in place of what to install."""
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs the package pyarrow\nInstall it with .*pip install pyarrow"):
        read_table(path)


class Column(list):
    """A column of a data set of the package `datasets`, as far as we use one."""


class Split:
    column_names, features = ["text", "label"], {"text": None, "label": types.SimpleNamespace(names=["no", "yes"])}

    def __init__(self, **columns):
        self.columns = columns

    def __getitem__(self, name):
        return self.columns[name]


def test_data_sets_of_the_package(tmp_path, monkeypatch):
    """Catches: the number of a ClassLabel in place of its name, a wrong split, a package's error as a traceback."""
    splits = {"train": Split(text=["a", "b"], label=[1, -1]), "validation": Split(text=["c"], label=[0])}

    def fail(name):
        raise RuntimeError("no such data set on the hub")

    package = types.SimpleNamespace(load_from_disk=lambda path: splits, load_dataset=fail)
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setattr(records, "find_spec", lambda name: name == "datasets")
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert [row for _, row in read_table(tmp_path).rows] == [["a", "yes"], ["b", "-1"]]
    assert read_table(tmp_path).declared == {"label": ("no", "yes")}
    assert [row for _, row in read_table(tmp_path, split="dev").rows] == [["c", "no"]]
    with pytest.raises(DataError, match="has no split test, only train, validation"):
        read_table(tmp_path, split="test")
    assert records.is_dataset(tmp_path / ".." / "x.csv") is False
    with pytest.raises(DataError, match="cannot read the data set imdb: 'no such data set on the hub'"):
        read_table("imdb")
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="the package `datasets`, which is not installed\nInstall"):
        read_table(tmp_path)
