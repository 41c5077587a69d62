"""Files of your own: columns found by name, labels in a stated order, a share for dev, and what is said of them."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.columns import NO_IDS, Options
from data.labels import Labels, labels_of
from data.own import ManyLabels, read_own
from data.reader import ColumnError, DataError, IdError, LabelError
from data.records import Table
from data.rules import OWN_RULES
from data.tasks import custom_task


@pytest.fixture
def read(tmp_path):
    """read(train, dev, test): read files with these contents as somebody's own."""
    def read(train, dev=None, test=None, num_labels=None, label_names=(), suffix="csv", **options):
        paths = {}
        for split, content in (("train", train), ("dev", dev), ("test", test)):
            if content is not None:
                paths[split] = tmp_path / f"{split}.{suffix}"
                paths[split].write_text(content)
        if dev is None and "dev_share" not in options:
            paths["dev"] = paths["train"]
        return read_own(paths, Options(**options), num_labels, label_names, OWN_RULES)
    return read


def unfolded(files):
    """The notes, each in one line."""
    return [note.replace("\n  ", " ") for note in files.notes]


# ---- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["text", "sentence", "review", "content", "Text", " REVIEW "])
@pytest.mark.parametrize("label", ["label", "sentiment", "class", "target", "category", "Label"])
def test_columns_by_name(read, text, label):
    """Catches: a name of the list that is not known, or known in lower case only; a column taken by its place."""
    files = read(f"x,{label},{text}\n9,no,good\n8,yes,bad\n")
    assert [(row.id, row.text, row.label) for row in files.examples["train"]] == [("1", "good", 0), ("2", "bad", 1)]


def test_columns_that_are_named(read):
    """Catches: a flag that is passed over, or passed over where a known name is there, too."""
    content = "id,key,text,tweet,label,mood\n1,k1,no,yes,a,up\n2,k2,no,yes,b,down\n"
    files = read(content, text_column="tweet", label_column="mood", id_column="key")
    assert [(row.id, row.text, row.label) for row in files.examples["train"]] == [("k1", "yes", 1), ("k2", "yes", 0)]
    assert [row.id for row in read(content, id_column=NO_IDS).examples["train"]] == ["1", "2"]
    assert files.notes[0] == "train: 2 rows, comma separated: texts 'tweet', labels 'mood', ids 'key'"
    assert "rows numbered" in read(content, id_column=NO_IDS).notes[0]


@pytest.mark.parametrize("content, options, role, said", [
    ("words,label\na,b\n", {}, "text", "train.csv:1: no column is named 'text' (or sentence, review, content); the "
                                       "first row must name the columns, here it names 'words, label'"),
    ("text,mood\na,b\n", {}, "label", "no column is named 'label' (or sentiment, class, target, category)"),
    ("text,label\na,b\n", {"text_column": "tweet"}, "text", "no column is named 'tweet'"),
    ("text,label\na,b\n", {"id_column": "key"}, "id", "no column is named 'key'"),
    ("text,text,label\na,b,c\n", {}, "text", "two columns are named 'text'"),
    ("just a line\nand another\n", {}, "text", "this is plain text or a table of one column, 'just a line'; the first "
                                               "row must name a column of texts"),
    ("text\nand another\n", {}, "label", "a table of one column, 'text'; the first row must name a column of texts and "
                                         "one of labels"),
])
def test_columns_that_are_not_there(read, content, options, role, said):
    """Catches: a guess in place of a question, and an error that does not know which flag would answer it."""
    with pytest.raises(ColumnError) as caught:
        read(content, **options)
    assert said in str(caught.value) and caught.value.role == role


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells, num_labels, names, wanted, spellings", [
    ("1 2 3 4 5", None, (), {"1": 0, "2": 1, "5": 4}, "1 2 3 4 5"),
    ("-1 1", None, (), {"-1": 0, "1": 1}, "-1 1"),
    ("0 2 10", None, (), {"0": 0, "2": 1, "10": 2}, "0 2 10"),
    ("0.5 -2.5 10", None, (), {"-2.5": 0, "0.5": 1, "10": 2}, "-2.5 0.5 10"),
    ("1.0 2.0 1", None, (), {"1": 0, "1.0": 0, "2.0": 1}, "1 2.0"),
    ("true false", None, (), {"false": 0, "true": 1}, "false true"),
    ("True False", None, (), {"False": 0, "True": 1}, "False True"),
    ("pos neg Neu", None, (), {"neg": 0, "Neu": 1, "pos": 2}, "neg Neu pos"),
    ("0 1", 3, (), {"0": 0, "1": 1}, ""),
    ("1 2 3", 3, (), {"1": 0, "3": 2}, "1 2 3"),
    ("1 3", 3, (), {"1": 0, "3": 2}, "1 2 3"),
    ("pos neg", 2, (), {"neg": 0, "pos": 1}, "neg pos"),
    ("pos neg", None, ("pos", "neg"), {"pos": 0, "neg": 1}, "pos neg"),
    ("0 1", None, ("bad", "good"), {"0": 0, "1": 1, "good": 1}, "bad good"),
    ("1 2", None, ("bad", "good"), {"1": 0, "2": 1}, "1 2"),
    ("0 good", None, ("bad", "good"), {"0": 0, "good": 1}, "bad good"),
])
def test_order_of_labels(cells, num_labels, names, wanted, spellings):
    """Catches: 10 before 2, true before false, 1..3 with a 2 that is missing renumbered, declared names passed over."""
    labels = labels_of(cells.split(), num_labels, names)
    assert {cell: labels.parse(cell) for cell in wanted} == wanted
    assert labels.names == tuple(spellings.split()) and labels.parse("") is labels.parse("other") is None


@pytest.mark.parametrize("cells, num_labels, names, wrong", [
    ("0 1 2", 2, (), "2"), ("0 3", 3, (), "3"), ("0 1 positive", 2, (), "positive"), ("good", 3, (), "good"),
    ("good great", None, ("bad", "good"), "great"), ("1 2 3", None, ("bad", "good"), "3"), ("-1 0", 3, (), "-1")])
def test_labels_that_do_not_fit_what_was_declared(cells, num_labels, names, wrong):
    """Catches: a declared number of labels that a mistake in the file can change."""
    assert labels_of(cells.split(), num_labels, names).parse(wrong) is None


@given(st.sets(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_labels_have_numbers(cells):
    """Catches: a label that is lost, a number that none or two have, an order that depends on the rows'."""
    labels = labels_of(cells)
    numbers = {cell: labels.parse(cell) for cell in cells}
    assert set(numbers.values()) == set(range(labels.count)) == set(range(len(labels.names)))
    assert labels_of(sorted(cells, reverse=True)).by_name == labels.by_name
    assert all(labels.parse(name) == number for number, name in enumerate(labels.names))


def test_names_and_spellings(read):
    """Catches: names in place of what the files hold (1..3 stay 1..3), and names made up for plain 0 to N - 1."""
    for labels, names, wanted in (("012", (), ((), ("0", "1", "2"))), ("123", (), (("1", "2", "3"),) * 2),
                                  ("123", ("a", "b", "c"), (("a", "b", "c"), ("1", "2", "3"))),
                                  ("012", ("a", "b", "c"), (("a", "b", "c"), ("0", "1", "2")))):
        files = read("text,label\n" + "".join(f"t{label},{label}\n" for label in labels), label_names=names)
        assert (files.label_names, files.spellings) == wanted


def test_the_table_of_labels(read):
    """Catches: counts of the wrong file, an order that is not stated, a table wider than a terminal."""
    files = read("text,label\na,5\nb,1\nc,5\n", dev="text,label\nd,1\n")
    assert files.notes[2:5] == (
        "label, in order of their value               train       dev",
        "  0   1                                          1         1",
        "  1   5                                          2         0")
    long = read(f"text,label\na,{'x' * 99}\nb,y\n")
    assert all(len(line) < 80 for note in long.notes for line in note.splitlines())


@pytest.mark.parametrize("content, kind, said", [
    ("text,label\n" + "".join(f"t{n},name {n}\n" for n in range(2000)), ManyLabels,
     "column 'label': 2,000 different values in 2,000 rows, such as 'name 0': are these labels?"),
    ("text,label\na,x\nb,x\n", ColumnError, "every row holds 'x'; at least two different labels are needed"),
    ("text,label\na,\nb,\n", ColumnError, "every row is empty; at least two"),
    ("text,label\na,x\nb,\nc,y\n", LabelError,
     "train.csv:3: column 'label': '' is not a label; expected one of 'x', 'y'"),
    ("text,label\n", DataError, "column names but no rows"),
    ("id,text,label\n1,a,x\n1,b,y\n", IdError, "the id '1' was used before, on line 2"),
    ("text,label\na,x\n,y\nb,y\n ,x\n", DataError,
     "train.csv:3: column 'text': the sentence is empty; also wrong: line 5"),
    ("text,label\na,x\nb,c,y\n", DataError, "train.csv:3: 3 fields where the first row has 2; put quote marks around a "
                                            "field that holds a comma"),
])
def test_what_is_refused(read, content, kind, said):
    """Catches: ids or texts taken for labels, and faults that are told one run at a time."""
    with pytest.raises(kind) as caught:
        read(content)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_many_labels_that_were_declared(read):
    """Catches: a question that cannot be answered."""
    content = "text,label\n" + "".join(f"t{n},name {n}\n" for n in range(200))
    assert len(read(content, num_labels=200).spellings) == 200


def test_nested_values(read):
    """Catches: a list of labels read as the one label "[1, 2]"."""
    with pytest.raises(DataError, match="a text is wanted here, not a list"):
        read('{"text": ["a"], "label": 1}\n{"text": "b", "label": 2}\n')
    with pytest.raises(DataError, match="not a list"):
        read('{"text": "a", "label": [1, 2]}\n{"text": "b", "label": [2]}\n')


# ---- test files ------------------------------------------------------------------------------------------------------


def test_a_test_file_with_labels(read):
    """Catches: labels of test that are lost, decide the order, or refuse the run."""
    train = "text,label\na,no\nb,yes\n"
    assert [row.label for row in read(train, test="text,label\nc,yes\nd,no\n").examples["test"]] == [1, 0]
    files = read(train, test="text,label\nc,yes\nd,perhaps\n")
    assert [row.label for row in files.examples["test"]] == [None, None] and files.spellings == ("no", "yes")
    assert "test: 'perhaps' is not a label of the training file, so test is not scored" in unfolded(files)
    for test in ("text,label\nc,\nd,\n", "text\nc\nd\n"):
        files = read(train, test=test)
        assert [row.label for row in files.examples["test"]] == [None, None]
        assert not any("scored" in note for note in unfolded(files))


def test_a_test_file_of_plain_text(read):
    """Catches: a first line lost as column names; a comma in it that makes columns."""
    files = read('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n', suffix="txt", test="one, two\n\nthree\n")
    assert [(row.id, row.text) for row in files.examples["test"]] == [("1", "one, two"), ("2", "three")]
    files = read("text\tlabel\na\t1\nb\t2\n", suffix="txt", test="text\nthree\n")
    assert [row.text for row in files.examples["test"]] == ["three"]


# ---- a share for dev -------------------------------------------------------------------------------------------------


def table(count, label=lambda number: number % 2, text=lambda number: f"the word{number} other{number} is x{number}"):
    return "text,label\n" + "".join(f"{text(number)},{label(number)}\n" for number in range(count))


def test_dev_share(read):
    """Catches: a share that is not of each label, rows in both or in none, another share for the same seed."""
    files = read(table(200, label=lambda number: "rare" if number % 10 == 0 else "usual"), dev_share=0.1, seed=3)
    train, dev = files.examples["train"], files.examples["dev"]
    assert Counter(row.label for row in dev) == {0: 2, 1: 18}
    assert sorted(int(row.id) for row in train + dev) == list(range(1, 201))
    assert [int(row.id) for row in dev] == sorted(int(row.id) for row in dev)
    again, other = (read(table(200, label=lambda number: "rare" if number % 10 == 0 else "usual"), dev_share=0.1,
                         seed=seed) for seed in (3, 4))
    assert again == files and other.examples["dev"] != dev and again.decisions != other.decisions
    assert any(note.startswith("dev: 20 of these rows (share 0.1 of each label, seed 3") for note in unfolded(files))


def test_near_duplicates_stay_on_one_side(read):
    """Catches: a dev text that train holds but for case, a sign or one word of ten."""
    def text(number):
        words = " ".join(f"w{number // 3}x{place}" for place in range(10))
        return [words, words.upper() + "!", words.replace("x9", "y9")][number % 3]
    files = read(table(90, text=text, label=lambda number: number // 3 % 2), dev_share=0.2)
    groups = {split: {(int(row.id) - 1) // 3 for row in files.examples[split]} for split in ("train", "dev")}
    assert not groups["train"] & groups["dev"] and len(files.examples["dev"]) == 18


def test_too_few_rows_for_a_share(read):
    """Catches: an empty dev or train."""
    with pytest.raises(DataError, match="too few different ones to take dev texts from"):
        read("text,label\nsame,0\nsame,1\n", dev_share=0.5)


# ---- what would spoil a result in silence ----------------------------------------------------------------------------


@pytest.mark.parametrize("train, dev, given, said", [
    ("a,x\nb,y\n", "c,z\nd,x\n", {}, "warning: train lacks the label 'z' of 1 dev rows; it cannot be learnt"),
    ("a,0\nb,1\n", "c,1\n", {"num_labels": 3}, "warning: the label '2' never occurs"),
    ("a,no\nb,yes\n", "c,yes\n", {"label_names": ("no", "yes", "so")}, "warning: the label 'so' never occurs"),
    ("a,Yes\nb,yes\nc,no\n", "d,no\n", {},
     "warning: the label 'Yes' differs from another in upper and lower case only"),
    ("a,x\nb b,y\n", "B  b,x\nd,y\nA,x\n", {},
     "warning: 2 of 3 dev texts are also in train: the score will be too good"),
])
def test_silent_faults_have_a_line(read, train, dev, given, said):
    """Catches: each of the faults that a run would pass over, and a warning without one."""
    notes = unfolded(read("text,label\n" + train, dev="text,label\n" + dev, **given))
    assert [note for note in notes if note.startswith("warning")][:1] == [said]
    clean = read("text,label\na,x\nb,y\n", dev="text,label\nc,x\nd,y\n").notes
    assert not [note for note in clean if note.startswith("warning")]


# ---- the task --------------------------------------------------------------------------------------------------------


def test_the_task_knows_its_labels_once_it_is_read(tmp_path):
    """Catches: labels or decisions that do not reach the run; decisions that JSON cannot hold."""
    (tmp_path / "a.csv").write_text(table(40, label=lambda number: number % 2 + 1))
    task = custom_task(tmp_path / "a.csv", options=Options(dev_share=0.25))
    loaded = task.load()
    assert loaded.task == replace(task, num_labels=2, label_names=("1", "2"), spellings=("1", "2"))
    assert [len(loaded.examples[split]) for split in ("train", "dev")] == [30, 10] and "test" not in loaded.examples
    assert task.read("dev") == loaded.examples["dev"]
    assert json.loads(json.dumps(loaded.decisions)) == loaded.decisions
    with pytest.raises(UserError, match="needs a dev file, or the share"):
        custom_task(tmp_path / "a.csv")


def test_decisions_tell_runs_apart(read):
    """Catches: a run that resumes on files which are read in another way by now."""
    base = "text,label,mood\na,x,y\nb,y,x\n"
    decided = [json.dumps(files.decisions) for files in (
        read(base), read(base.replace(",", "\t")), read(base, label_column="mood"), read(base, label_names=("y", "x")),
        read("id," + base.replace("\na", "\n1,a").replace("\nb", "\n2,b")), read(table(40), dev_share=0.1),
        read(table(40), dev_share=0.2))]
    assert len(set(decided)) == len(decided)


def test_labels_of_the_course_are_as_they_were():
    """Catches: a change of the contract of course files, whose labels are numbers or declared names."""
    assert Labels(5, ()).wanted == "an integer from 0 to 4"
    assert Labels(2, ("a", "b")).wanted == "an integer from 0 to 1 or one of 'a', 'b'"


def test_a_data_set_declares_the_order_of_its_labels(tmp_path, monkeypatch):
    """Catches: awful, bad, good, great, meh: the alphabet's order in place of the one that a ClassLabel declares; and a
    declared label that no text has left out, so that another file has other numbers.
    """
    names = ("awful", "bad", "meh", "good", "great")

    def read_table(path, options, split):
        rows = [(1, ["x", "great"]), (2, ["y", "bad"]), (3, ["z", "meh"])]
        return Table(path, "data set", ["text", "label"], rows, unit="row", declared={"label": names})

    monkeypatch.setattr("data.own.read_table", read_table)
    paths = {"train": tmp_path, "dev": tmp_path}
    found = read_own(paths, Options(), None, (), OWN_RULES)
    assert found.label_names == found.spellings == names
    assert [example.label for example in found.examples["train"]] == [4, 1, 2]
    assert "label, as the data set lists them" in "\n".join(found.notes)
    given = read_own(paths, Options(), None, ("bad", "meh", "great"), OWN_RULES)
    assert given.label_names == ("bad", "meh", "great")
