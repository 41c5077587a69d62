"""The reader: what it accepts, what it refuses, where it says the fault is, and nothing else whatever
comes.
"""

import csv
import io
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.reader import DataError, Example, read_examples
from data.rules import OWN_RULES, Rules

HEADER = b"\tid\tsentence\tsentiment\n"
FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, content: bytes, **how) -> list[Example]:
    path = folder / "some.csv"
    path.write_bytes(content)
    return read_examples(path, **{"labelled": True, "num_labels": 5, "rules": OWN_RULES, **how})


GOOD = {
    "plain": HEADER + b"0\ta\tgood film\t3\n",
    "byte order mark": b"\xef\xbb\xbf" + HEADER + b"0\ta\tgood film\t3\n",
    "crlf": (HEADER + b"0\ta\tgood film\t3\n").replace(b"\n", b"\r\n"),
    "cr": (HEADER + b"0\ta\tgood film\t3\n").replace(b"\n", b"\r"),
    "no final line end": HEADER + b"0\ta\tgood film\t3",
    "empty lines": b"\n" + HEADER + b"\n0\ta\tgood film\t3\n\n\n",
    "quoted fields": b'""\t"id"\t"sentence"\t"sentiment"\n"0"\t"a"\t"good film"\t"3"\n',
    "spaces around id and label": HEADER + b"0\t a \tgood film\t 3 \n",
    "leading zero": HEADER + b"0\ta\tgood film\t03\n",
    "other order, more columns": b"sentiment\tx\tsentence\ty\tid\n3\t\tgood film\t\ta\n",
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_forms_of_the_same_file(tmp_path, content):
    """Catches a BOM in the first column's name, a label with a stray \\r, columns taken by position."""
    assert read(tmp_path, content) == [Example("a", "good film", 3)]


def test_quoted_fields(tmp_path):
    """Catches reading with quoting off, and quoted line breaks or tabs that end a row or a field."""
    content = HEADER + b'0\ta\t"two\nlines, ""quoted"""\t1\n1\tb\t"a\ttab"\t2\n2\tc\tmid "quote" mark\t0\n'
    texts = [example.text for example in read(tmp_path, content)]
    assert texts == ['two\nlines, "quoted"', "a\ttab", 'mid "quote" mark']


@pytest.mark.parametrize("text, labelled", [
    ("one\ttab\nand a line", True), ("one\ttab\nand a line", False), ("line\none\ttab", True), ("\t\n\t", True),
    ("a\tb\tc\n\n\td", True), ("one\ttab\r\nand\ta line", True)])
def test_tabs_and_line_breaks_in_one_quoted_field(tmp_path, text, labelled):
    """Catches a field that is closed and was refused as never closed; the columns are few, so it looks like rows."""
    content = f'id\tsentence\tsentiment\na\t"{text} end"\t0\nb\tx\t1\n'.encode()
    assert [e.text for e in read(tmp_path, content, labelled=labelled)] == [f"{text} end".strip(), "x"]


@pytest.mark.parametrize("wrong, said", [
    ([3], ":4: column 'sentence': the sentence is empty"),
    ([1, 3, 4], ":2: column 'sentence': the sentence is empty; also wrong: line 4, 5"),
    (range(1, 11), "the sentence is empty; also wrong: line 3, 4, 5, 6, 7, 8, 9, 10, 11"),
    (range(1, 31), "also wrong: line 3, 4, 5, 6, 7, 8, 9, 10, 11 and 20 more")])
def test_all_wrong_rows_are_named_at_once(tmp_path, wrong, said):
    """Catches a fault that is told one run at a time, and thousands of lines in one message."""
    content = HEADER + b"".join(b"0\tid%d\t%s\t1\n" % (n, b"" if n in wrong else b"x") for n in range(1, 40))
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert str(caught.value).endswith(said)


def test_unlabelled(tmp_path):
    """Catches a label column that is required, read or checked in a test file."""
    assert read(tmp_path, b"0\t\tid\tsentence\n1\t0.0\ta\thm\n", labelled=False) == [Example("a", "hm", None)]
    assert read(tmp_path, HEADER + b"0\ta\thm\tnone\n", labelled=False) == [Example("a", "hm", None)]


def test_ids_keep_their_case(tmp_path):
    """Catches the course's lower-casing of ids, which breaks the link to the data."""
    assert read(tmp_path, HEADER + "0\tAÉ b\thm\t1\n".encode())[0].id == "AÉ b"


def test_label_names(tmp_path):
    """Catches names not understood, and names that look like integers taken for label numbers."""
    rows = b"id\tsentence\tsentiment\na\tx\tgood\nb\tx\t0\n"
    assert [e.label for e in read(tmp_path, rows, num_labels=None, label_names=("bad", "good"))] == [1, 0]
    stars = b"id\tsentence\tsentiment\na\tx\t1\nb\tx\t2\n"
    assert [e.label for e in read(tmp_path, stars, num_labels=2, label_names=("1", "2"))] == [0, 1]
    with pytest.raises(DataError, match="expected one of '1', '2'"):
        read(tmp_path, stars + b"c\tx\t0\n", num_labels=2, label_names=("1", "2"))
    with pytest.raises(DataError, match="expected an integer from 0 to 1 or one of 'bad', 'good'"):
        read(tmp_path, rows + b"c\tx\tGood\n", num_labels=None, label_names=("bad", "good"))


def test_labels_without_a_bound(tmp_path):
    """Catches a range invented for a file whose number of labels nobody gave."""
    assert read(tmp_path, HEADER + b"0\ta\thm\t77\n", num_labels=None)[0].label == 77


def test_very_long_field(tmp_path):
    """Catches csv's own limit of 128 KiB a field, and leaving that limit changed for others."""
    before = csv.field_size_limit()
    sentence = "long " * 100_000
    assert read(tmp_path, HEADER + f"0\ta\t{sentence}\t1\n".encode())[0].text == sentence.strip()
    assert csv.field_size_limit() == before


BAD = {
    "empty file": (b"", "some.csv: the file is empty"),
    "only blank lines": (b"\n \r\n", "some.csv: the file is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "some.csv: the file is empty"),
    "only column names": (HEADER, "no rows"),
    "no id column": (b"sentence\tsentiment\nx\t1\n", ":1: no column is named 'id'"),
    "no sentiment column": (b"id\tsentence\nx\tx\n", ":1: no column is named 'sentiment'"),
    "a column twice": (b"id\tid\tsentence\tsentiment\n", ":1: two columns are named 'id'"),
    "commas": (b"id,sentence,sentiment\na,b,1\n", "separated by tabs"),
    "too few fields": (HEADER + b"0\ta\tx\t1\n1\tb\tx\n", ":3: column 'sentiment': missing: 3 fields"),
    "one field": (HEADER + b"x\n", ":2: column 'id': missing: 1 fields where the first row has 4"),
    "too many fields": (HEADER + b"0\ta\tx\ty\t1\n", ":2: 5 fields where the first row has 4"),
    "label a word": (HEADER + b"0\ta\tx\tgood\n", ":2: column 'sentiment': 'good' is not a label"),
    "label a float": (HEADER + b"0\ta\tx\t1.0\n", "'1.0' is not a label; expected an integer from 0 to 4"),
    "label empty": (HEADER + b"0\ta\tx\t\n", "'' is not a label"),
    "label too large": (HEADER + b"0\ta\tx\t5\n", "'5' is not a label"),
    "label negative": (HEADER + b"0\ta\tx\t-1\n", "'-1' is not a label"),
    "label of 5,000 digits": (HEADER + b"0\ta\tx\t" + b"0" * 5000 + b"1\n", "is not a label"),
    "label in Arabic digits": (HEADER + "0\ta\tx\t٣\n".encode(), "'٣' is not a label"),
    "label superscript": (HEADER + "0\ta\tx\t²\n".encode(), "'²' is not a label"),
    "id twice": (HEADER + b"0\ta\tx\t1\n\n1\ta\ty\t1\n",
                 ":4: column 'id': the id 'a' was used before, on line 2"),
    "id empty": (HEADER + b"0\t \tx\t1\n", ":2: column 'id': the id is empty"),
    "id with a comma": (HEADER + b"0\ta,1\tx\t1\n", ":2: column 'id': the id 'a,1' holds a comma"),
    "id of two lines": (HEADER + b'0\t"a\nb"\tx\t1\n', r"the id 'a\nb' holds"),
    "sentence empty": (HEADER + b"0\ta\t\t1\n", ":2: column 'sentence': the sentence is empty"),
    "sentence of spaces": (HEADER + b"0\ta\t  \t1\n", ":2: column 'sentence': the sentence is empty"),
    "not UTF-8": (HEADER + b"0\ta\tx\t1\n1\tb\tcaf\xe9\t1\n", ":3: not UTF-8: byte 0xe9 at offset 38"),
    "not UTF-8 after a byte order mark": (b"\xef\xbb\xbf" + HEADER + b"\xff", "byte 0xff at offset 26"),
    "UTF-8 cut short": (HEADER + b"0\ta\tx\xc3", ":2: not UTF-8: byte 0xc3"),
    "UTF-16": ("id\tsentence\n".encode("utf-16"), ":1: this is UTF-16"),
    "NUL": (HEADER + b"0\ta\tx\x00y\t1\n", ":2: a NUL character"),
    "Parquet": (b"PAR1" + b"\x15\xff" * 9, ":1: this is a Parquet file, not text"),
    "UTF-16 without a mark": ("id\tsentence\n".encode("utf-16-le"), ":1: this is UTF-16; save the file as UTF-8"),
    "an Excel file": (b"PK\x03\x04..xl/workbook.xml", ":1: this is an Excel workbook; in Excel, save the sheet as"),
    "a gzip file": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", ":1: this is a gzip file; unpack it"),
    "quote never closes": (HEADER + b'0\ta\tx\t1\n1\tb\t"Great, he said.\t1\n2\tc\tx\t1\n',
                           ":3: column 'sentence': a quote opens here and never closes"),
    "quote closes rows later": (HEADER + b'0\ta\t"Great.\t1\n1\tb\t"x"\t1\n',
                                ":2: column 'sentence': a quote opens here and closes on line 3 where"),
    "quote swallows whole rows": (HEADER + b'0\ta\t"Great.\t1\n1\tb\tthe end"\t1\n',
                                  ":2: column 'sentence': a quote opens here and runs over whole rows"),
    "quote closes too early": (HEADER + b'0\ta\t"Great" film\t1\n',
                               ":2: column 'sentence': a quote opens here and closes on line 2 where"),
    "quote opens on a row's second line": (HEADER + b'"0\n1"\ta\t"x\t1\n',
                                           ":3: column 'sentence': a quote opens"),
    "quote in the first row": (b'"id\tsentence\n', ":1: column 1: a quote opens here and never closes"),
    "label after a two-line sentence": (HEADER + b'0\ta\t"x\ny"\t9\n',
                                        ":3: column 'sentiment': '9' is not a label"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, content, message):
    """Catches a fault that is accepted, or reported without its file, line and column."""
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert "some.csv" in str(caught.value) and message in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path)) and "\n" not in str(caught.value)


def test_bad_paths(tmp_path):
    """Catches tracebacks for paths that are no readable file, and devices or pipes, which may never end."""
    for path in (tmp_path / "nothing.csv", tmp_path, "a\0b", "n" * 5000):
        with pytest.raises(DataError):
            read_examples(path, labelled=True)
    with pytest.raises(DataError, match="not a regular file"):
        read_examples(os.devnull, labelled=True)


SENTENCES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
ROWS = st.lists(st.tuples(SENTENCES.filter(str.strip), st.integers(0, 4)), min_size=1, max_size=5)


@FUZZ
@given(ROWS, st.sampled_from(["\n", "\r\n"]))
def test_round_trip(tmp_path, rows, line_end):
    """Catches any character that does not survive: csv's own writer is the oracle, every field quoted."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerow(["", "id", "sentence", "sentiment"])
    writer.writerows([n, f"id{n}", text, label] for n, (text, label) in enumerate(rows))
    examples = read(tmp_path, file.getvalue().encode(), rules=Rules())
    assert [(e.text, e.label) for e in examples] == rows


PIECES = st.sampled_from(
    [b"\t", b"\n", b"\r", b'"', b'""', b"a", b"1", b" ", b"id", b"sentence", b"sentiment", HEADER,
     b"\xef\xbb\xbf", b"\x00", b"\xff", "é\x85\u2028".encode(), b"<br />", b"0\ta\tx\t1\n"])


@FUZZ
@given(st.binary(max_size=200) | st.lists(PIECES, max_size=40).map(b"".join), st.booleans(), st.booleans())
@example(HEADER + b'"\r"\r\n"', True, True)
def test_fuzz(tmp_path, content, headed, labelled):
    """Catches any exception but DataError, and Examples that break their promise, for any bytes at all."""
    try:
        examples = read(tmp_path, (HEADER if headed else b"") + content, labelled=labelled)
    except DataError as error:
        assert "some.csv" in str(error)
        return
    assert examples and len({e.id for e in examples}) == len(examples)
    for e in examples:
        assert e.id == e.id.strip() != "" and e.text.strip()
        assert e.label in range(5) if labelled else e.label is None


@pytest.mark.parametrize("piece", [b'"', b'""', b"\n", b"\t", b"ab\t", b'"\n', b"0\ta\tx\t1\n", b"<br "],
                         ids=repr)
def test_time_and_memory_are_bounded_by_the_file(tmp_path, piece):
    """Catches quadratic scanning (then this takes minutes) and copies that pile up."""
    content = HEADER + piece * (200_000 // len(piece))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(content)
    finally:
        tracemalloc.stop()
