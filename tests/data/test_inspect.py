"""What is said of a task's files: counted by hand."""

from pathlib import Path

from data.inspect import report, unknown_script
from data.reader import Example
from data.tasks import Loaded, custom_task


class Letters:
    """A tokenizer of one token a letter, or of `each`."""

    def __init__(self, each=1):
        self.each = each

    def encode(self, texts, max_length, lowercase):
        return type("Encoded", (), {"ids": [[0] * min(self.each * len(text), max_length) for text in texts]})


def rows(*texts, label=0):
    return [Example(str(number), text, label) for number, text in enumerate(texts)]


def test_a_report_counted_by_hand():
    """Catches: a length that is cut before it is counted, a duplicate of case missed, numbers of the wrong split."""
    train = rows("a b c d e", "A  b c d e", "ffff", "x" * 20) + rows("ffff", label=1)
    loaded = Loaded(custom_task(Path("a"), Path("b"), num_labels=2), {
        "train": train, "dev": rows("e d c b a", "FFFF"), "test": rows("new", label=None)}, ("the notes",))
    lines = list(report(loaded, Letters(), 9))
    assert lines[:2] == ["the notes", "length in tokens     least  median     95%    most            over 9"]
    assert [line.split() for line in lines[2:5]] == [
        ["train", "4", "9", "10", "20", "2", "(40%)"], ["dev", "4", "9", "4", "9", "0", "(0%)"],
        ["test", "3", "3", "3", "3", "0", "(0%)"]]
    assert lines[5:] == [
        "train: 2 texts repeat an earlier one", "train: 1 texts occur with different labels",
        "dev: 0 texts repeat an earlier one", "test: 0 texts repeat an earlier one",
        "dev: 1 of 2 texts are also in train", "test: 0 of 1 texts are also in train",
        "near-duplicates: 6 texts have one, 2 of dev with one in train"]
    assert all(len(line) < 80 for line in lines)


def test_a_script_that_the_tokenizer_does_not_know():
    """Catches: a warning for every text, for short ones, or for none."""
    assert unknown_script(["word " * 9], Letters(), False) is None
    assert unknown_script(["a", "b"], Letters(2), False) is None
    assert unknown_script(["word"] * 9, Letters(3), False) == (
        "warning: 12.0 tokens a word: the tokenizer does not know this script")
