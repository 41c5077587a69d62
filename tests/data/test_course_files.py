"""The course's real files: all rows read, one form after the rules. Skipped where they are absent."""

import re
from collections import Counter

import pytest

from data.reader import Example, read_examples
from data.rules import COURSE_RULES, Rules
from data.tasks import TASKS

ROWS = {  # from the files' own description: rows, and rows of each label
    "ids-sst-train.csv": (8544, [1092, 2218, 1624, 2322, 1288]),
    "ids-sst-dev.csv": (1101, [139, 289, 229, 279, 165]),
    "ids-sst-test-student.csv": (2210, None),
    "ids-cfimdb-train.csv": (1707, [856, 851]),
    "ids-cfimdb-dev.csv": (245, [123, 122]),
    "ids-cfimdb-test-student.csv": (488, None),
}


@pytest.fixture(scope="module")
def course(shared):
    """Reads one of the course's files."""
    if not (shared / "data").is_dir():
        pytest.skip(f"needs the course's files in {shared / 'data'}, which is not there")

    def read(name: str, rules: Rules = COURSE_RULES) -> list[Example]:
        labels = ROWS[name][1]
        return read_examples(shared / "data" / name, labelled=labels is not None,
                             num_labels=labels and len(labels), rules=rules)

    return read


@pytest.mark.parametrize("name", ROWS)
def test_counts(course, name):
    """Catches rows lost, merged or split (quoting off, a swallowed quote), and labels of a wrong column."""
    rows, labels = ROWS[name]
    examples = course(name)
    assert len(examples) == rows
    assert all(re.fullmatch("[0-9a-f]{25}", e.id) for e in examples)
    counts = Counter(e.label for e in examples)
    assert counts == ({None: rows} if labels is None else dict(enumerate(labels)))


DEFECTS = {
    "strip": r"^\s|\s$",
    "break-tags": r"(?i)<\s*br\b",
    "control-characters": "[\x80-\x9f]",
}


def share(examples: list[Example], pattern: str) -> float:
    """The share of texts in which a pattern is found."""
    return sum(bool(re.search(pattern, e.text)) for e in examples) / len(examples)


@pytest.mark.parametrize("rule", DEFECTS)
@pytest.mark.parametrize("name", ROWS)
def test_defects_are_gone(course, name, rule):
    """Catches a defect that its rule leaves in any of the six files."""
    assert share(course(name), DEFECTS[rule]) == 0


@pytest.mark.parametrize(("rule", "rows"), [("strip", 292), ("break-tags", 230), ("control-characters", 3)])
def test_each_rule_has_work(course, rule, rows):
    """Catches a rule, or a pattern of this test, that does nothing: the described number of rows shows it."""
    examples = course("ids-cfimdb-test-student.csv", Rules())
    assert share(examples, DEFECTS[rule].replace(r"|\s$", "")) == pytest.approx(rows / 488, abs=1e-9)
    assert share(course("ids-cfimdb-test-student.csv", COURSE_RULES.without(rule)), DEFECTS[rule]) > 0


def quote_runs(examples: list[Example]) -> dict[int, float]:
    """How often quote marks stand alone, in twos, threes, ..., as shares."""
    runs = Counter(len(run) for e in examples for run in re.findall('"+', e.text))
    return {length: count / sum(runs.values()) for length, count in runs.items()}


@pytest.mark.parametrize(("rules", "alike"), [
    (COURSE_RULES, True),
    (COURSE_RULES.without("unquote-again"), False),
])
def test_cfimdb_quotes_alike_in_all_files(course, rules, alike):
    """Catches one round of quoting undone too many or too few in one file, and a rule that does nothing."""
    train, dev, test = (quote_runs(course(f"ids-cfimdb-{split}.csv", rules))
                        for split in ("train", "dev", "test-student"))
    for other in (dev, test):
        distance = sum(abs(train.get(n, 0) - other.get(n, 0)) for n in train.keys() | other.keys()) / 2
        assert distance < 0.05 if alike or other is dev else distance > 0.5


def test_sst_keeps_its_marks(course):
    """Catches a rule that changes SST beyond its leading space."""
    for split in ("train", "dev", "test-student"):
        name = f"ids-sst-{split}.csv"
        assert course(name) == course(name, Rules(("strip",)))


@pytest.mark.parametrize("name", ["sst-sample", "cfimdb-sample"])
def test_samples(name):
    """Catches sample files that are missing, unbalanced, or share a sentence between files."""
    task = TASKS[name]
    task.check_files()
    splits = {split: task.read(split) for split in ("train", "dev", "test")}
    rows = [600, 120, 180] if name == "sst-sample" else [120, 24, 36]
    assert [len(examples) for examples in splits.values()] == rows
    for split in ("train", "dev"):
        assert len(set(Counter(e.label for e in splits[split]).values())) == 1
    texts = [e.text.casefold() for examples in splits.values() for e in examples]
    ids = [e.id for examples in splits.values() for e in examples]
    assert len(set(texts)) == len(texts) and len(set(ids)) == len(ids)
    assert all(e.label is None for e in splits["test"])
