"""Texts to predict: read in order whatever they hold, and wrong files told by file and line."""

import csv
import io
import itertools
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tasks import TASKS
from serving.texts import TEXT_COLUMNS, TextError, read_texts

# What a file in UTF-8 can hold; no NUL, which Python 3.10's csv refuses.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def put(path, content):
    """Write a file; returns its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, *args, **options):
    """(id, text) of each row."""
    return [(row.id, row.text) for row in read_texts(path, *args, **options)]


def test_a_text_a_line(tmp_path):
    """Catches lost empty lines, lost spaces, line ends of one system, and a byte order mark in the first text."""
    path = put(tmp_path / "new.txt", "\ufeffone\r\n\n  two \t\nthree\u2028four")
    assert read(path) == [("1", "one"), ("2", ""), ("3", "  two \t"), ("4", "three\u2028four")]
    assert [row.place for row in read_texts(path)] == [f"{path}:{number}" for number in (1, 2, 3, 4)]
    assert read(put(tmp_path / "empty", "")) == []


@pytest.mark.parametrize("separator", "\t,;|")
@pytest.mark.parametrize("name", ["new.csv", "new.TSV"])
def test_tables(tmp_path, separator, name):
    """Catches a separator that is believed by the file's name, quotes left in, and line breaks that end a row."""
    rows = [["x", "Review", "ID"], ["1", "fine", "a"], ["2", 'a "b"\n\tc, d; e', "b"], ["3", "", " c "]]
    content = io.StringIO()
    csv.writer(content, delimiter=separator, lineterminator="\n").writerows(rows)
    path = put(tmp_path / name, content.getvalue() + "\n\n")
    assert read(path) == [("a", "fine"), ("b", 'a "b"\n\tc, d; e'), ("c", "")]
    assert [row.place for row in read_texts(path)] == [f"{path}:{line}" for line in (2, 3, 5)]
    assert read(path, text_column="x", id_column="review")[0] == ("fine", "1")


def test_the_courses_files(tmp_path):
    """Catches a table whose name says commas and whose columns are separated by tabs, as all of the course's are."""
    task = TASKS["sst-sample"]
    assert read(task.test) == [(example.id, example.text) for example in task.read("test")]


def test_rows_without_ids_are_numbered(tmp_path):
    """Catches numbers of lines in place of numbers of rows."""
    assert read(put(tmp_path / "new.csv", 'text\n"a\nb"\n\nc\n')) == [("1", "a\nb"), ("2", "c")]


def test_json_lines(tmp_path):
    """Catches keys in one order only, texts alone, and ids that are numbers."""
    path = put(tmp_path / "new.jsonl", '{"id": 7, "text": "a\\n\\u00e9"}\n\n"b"\n{"content": "c", "review": "d"}\n')
    assert read(path) == [("7", "a\n\u00e9"), ("2", "b"), ("3", "d")]
    assert read(path, text_column=None)[0][1] == "a\n\u00e9"


def test_the_form_can_be_named(tmp_path):
    """Catches a name that overrides what the user says."""
    path = put(tmp_path / "new.csv", "text\na\n")
    assert read(path, "txt") == [("1", "text"), ("2", "a")] and read(path, "tsv") == [("1", "a")]


@pytest.mark.parametrize("name, content, words", [
    ("a.txt", b"a\nb\xe9\n", r":2: not UTF-8: byte 0xe9; save it as UTF-8"),
    ("a.csv", "text\na\n".encode("utf-16"), ":1: this is UTF-16"),
    ("a.csv", "", ":1: no column is named text, sentence, review or content"),
    ("a.csv", "id,label\n1,2\n", r":1: no column is named text.*the first row names 'id, label'"),
    ("a.csv", "text,Text\n1,2\n", ":1: two columns are named 'text'"),
    ("a.csv", "id\ttext\n1\ta\n2\n", ":3: 1 fields where the first row has 2"),
    ("a.csv", 'text\n"a\nb\n', ":3: .*a field that begins with a quote mark must end with one"),
    ("a.csv", 'text\n"a" b\n', ":2: .*quote mark"),
    ("a.jsonl", '"a"\n{"text": \n', ":2: not JSON"),
    ("a.jsonl", "[" * 100_000, ":1: not JSON"),
    ("a.jsonl", '{"txt": "a"}', r":1: there is no text under 'text'; its keys are 'txt'"),
    ("a.jsonl", '{"text": null}', ":1: there is no text under 'text'"),
    ("a.jsonl", "5", ":1: there is no text under 'text'"),
])
def test_a_wrong_file_is_told_by_line(tmp_path, name, content, words):
    """Catches a traceback, or a message without file and line."""
    path = put(tmp_path / name, content)
    with pytest.raises(TextError, match=f"{path}{words}"):
        read(path)


def test_columns_that_are_not_there(tmp_path):
    """Catches another column taken in place of the one named."""
    path = put(tmp_path / "a.csv", "text,id\na,b\n")
    for options in ({"text_column": "review"}, {"id_column": "key"}):
        with pytest.raises(TextError, match="no column is named"):
            read(path, **options)
    path = put(tmp_path / "a.jsonl", '{"text": "a"}')
    for options in ({"text_column": "review"}, {"id_column": "key"}):
        with pytest.raises(TextError, match="there is no"):
            read(path, **options)


def test_files_that_cannot_be_read(tmp_path):
    """Catches a traceback."""
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(TextError, match=f"cannot read {path}"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_rows_come_as_they_are_read(tmp_path):
    """Catches a reader that waits for the end: it would take the memory of the whole, and a pipe may have none."""
    pipe = tmp_path / "new.txt"
    os.mkfifo(pipe)
    release = threading.Event()

    def feed():
        with open(pipe, "w") as file:
            file.write("a\nb\n")
            file.flush()
            release.wait(60)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        assert [row.text for row in itertools.islice(read_texts(pipe), 2)] == ["a", "b"]
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_row_without_end(tmp_path, name, monkeypatch):
    """Catches memory without bound for a file without line ends (/dev/zero), or an open quote."""
    monkeypatch.setattr("serving.texts.LONGEST", 1000)
    content = {"a.txt": "x" * 1001, "a.csv": 'text\n"' + "x\n" * 600, "a.jsonl": '"' + "x" * 1001}[name]
    with pytest.raises(TextError, match=r"more than 1,000 characters|field larger than field limit"):
        read(put(tmp_path / name, content))
    assert csv.field_size_limit() == 131072  # as it was


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.sampled_from(TEXT_COLUMNS))
def test_any_text_comes_back(tmp_path_factory, rows, column):
    """Catches characters that a format takes for its own: quotes, separators, line ends, NEL."""
    folder = tmp_path_factory.mktemp("rows")
    texts = [text for text, _ in rows]
    put(folder / "a.jsonl", "".join(json.dumps({column: text}) + "\n" for text in texts))
    assert [text for _, text in read(folder / "a.jsonl")] == texts
    content = io.StringIO()
    csv.writer(content, quoting=csv.QUOTE_ALL).writerows([["id", column], *([str(n), t] for n, t in enumerate(texts))])
    put(folder / "a.csv", content.getvalue())
    assert read(folder / "a.csv") == [(str(number), text) for number, text in enumerate(texts)]
