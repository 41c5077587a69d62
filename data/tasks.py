"""Tasks: which files, which labels, how texts are read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError, quoted
from data.reader import Example, read_examples
from data.rules import COURSE_RULES, OWN_RULES, Rules

SplitName = Literal["train", "dev", "test"]

DATA_FOLDER = Path(__file__).resolve().parent
SAMPLE_FOLDER = DATA_FOLDER / "sample"


class NotDownloaded(UserError):
    """Files of the course are missing; `data/download.py` can fetch them."""


@dataclass(frozen=True)
class Task:
    """A classification task. UserError on construction where the values do not fit together."""

    name: str  # part of the name of its run folder and its prediction files
    train: Path
    dev: Path  # file to choose the best epoch on
    test: Path | None  # file to predict; its labels, if it has any, are not read
    num_labels: int  # labels are 0 to num_labels - 1
    label_names: tuple[str, ...] = ()  # one for each label, from 0 up; empty: labels have numbers only
    lowercase: bool = False  # lower-case every text before it is tokenised, as the course does
    max_length: int = 512  # longest text, in tokens; the rest is cut off, and the model's own limit counts too
    rules: Rules = OWN_RULES  # applied to each text by the reader
    downloadable: bool = False  # whether data/download.py can fetch the files

    def __post_init__(self) -> None:
        if not self.name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in self.name) \
                or self.name.startswith((".", "-")):
            raise UserError(f"{quoted(self.name)} cannot name a task: use letters, digits, '-', '_' and '.'")
        if self.num_labels < 2:
            raise UserError(f"a task needs at least 2 labels, not {self.num_labels}")
        if self.label_names and len(self.label_names) != self.num_labels:
            raise UserError(f"{len(self.label_names)} label names for {self.num_labels} labels")
        if len(set(self.label_names)) != len(self.label_names) or not all(map(str.strip, self.label_names)):
            raise UserError("label names must differ from each other and must not be empty")

    def check_files(self) -> None:
        """Raise UserError if a file of the task is missing, NotDownloaded if it is the course's. Reads nothing."""
        missing = [str(path) for path in (self.train, self.dev, self.test) if path and not os.path.exists(path)]
        if missing and self.downloadable:
            raise NotDownloaded(f"no such file: {', '.join(missing)}; `./setup.sh -m data.download` fetches it")
        if missing:
            raise UserError(f"no such file: {', '.join(missing)}")

    def path(self, split: SplitName) -> Path | None:
        """Return the file of a split; None for a task without a test file."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]

    def read(self, split: SplitName) -> list[Example]:
        """Return the examples of a split, those of `test` without labels. Raises DataError as `read_examples` does."""
        path = self.path(split)
        if path is None:
            raise UserError(f"task {self.name} has no {split} file")
        return read_examples(path, labelled=split != "test", num_labels=self.num_labels,
                             label_names=self.label_names, rules=self.rules)


def custom_task(train: str | Path, dev: str | Path, test: str | Path | None = None, *, num_labels: int | None = None,
                label_names: Sequence[str] = (), name: str = "own") -> Task:
    """Return a task on your own files. UserError unless `num_labels`, `label_names` or both are given, and fit."""
    if num_labels is None and not label_names:
        raise UserError("a task on your own files needs the number of its labels, or their names")
    return Task(name=name, train=Path(train), dev=Path(dev), test=None if test is None else Path(test),
                num_labels=len(label_names) if num_labels is None else num_labels,
                label_names=tuple(label_names))


SST_LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
CFIMDB_LABELS = ("negative", "positive")


def _built_in(name: str, folder: Path, labels: tuple[str, ...], max_length: int) -> Task:
    """Return a task with the course's file names, rules and lower-casing."""
    return Task(name, train=folder / f"ids-{name}-train.csv", dev=folder / f"ids-{name}-dev.csv",
                test=folder / f"ids-{name}-test-student.csv", num_labels=len(labels), label_names=labels,
                lowercase=True, max_length=max_length, rules=COURSE_RULES, downloadable=folder == DATA_FOLDER)


TASKS: dict[str, Task] = {task.name: task for task in (
    _built_in("sst", DATA_FOLDER, SST_LABELS, max_length=128),
    _built_in("cfimdb", DATA_FOLDER, CFIMDB_LABELS, max_length=512),
    _built_in("sst-sample", SAMPLE_FOLDER, SST_LABELS, max_length=128),
    _built_in("cfimdb-sample", SAMPLE_FOLDER, CFIMDB_LABELS, max_length=512),
)}
