"""Tasks: which files, which labels, how texts are read."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, quoted
from data.columns import Options
from data.own import read_own
from data.reader import Example, read_examples
from data.records import DataError, is_dataset
from data.rules import COURSE_RULES, OWN_RULES, Rules

SplitName = Literal["train", "dev", "test"]
MOST_LABELS = 1_000_000
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")

DATA_FOLDER = Path(__file__).resolve().parent
SAMPLE_FOLDER = DATA_FOLDER / "sample"


class NotDownloaded(UserError):
    """Files of the course are missing; `data/download.py` can fetch them."""


@dataclass(frozen=True)
class Task:
    """A classification task. UserError on construction where the values do not fit together."""

    name: str  # part of the name of its run folder and its prediction files
    train: Path
    dev: Path | None  # file to choose the best epoch on; None: a share of train
    test: Path | None  # file to predict
    num_labels: int | None  # labels are 0 to num_labels - 1; None for files of your own that were not read yet
    label_names: tuple[str, ...] = ()  # one for each label, from 0 up; empty: labels have numbers only
    lowercase: bool = False  # lower-case every text before it is tokenised, as the course does
    max_length: int = 512  # longest text, in tokens; the rest is cut off, and the model's own limit counts too
    rules: Rules = OWN_RULES  # applied to each text by the reader
    keep_end: bool = False  # cut off the beginning of a text that is too long, not its end
    downloadable: bool = False  # whether data/download.py can fetch the files
    own: Options | None = None  # how files of your own are read; None: the files are as the course's
    spellings: tuple[str, ...] = ()  # the labels as your own files spell them, from 0 up; empty: as numbers

    def __post_init__(self) -> None:
        if not self.name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in self.name) \
                or self.name.startswith((".", "-")):
            raise UserError(f"{quoted(self.name)} cannot name a task: use letters, digits, '-', '_' and '.'")
        if self.num_labels is not None and self.num_labels < 2:
            raise UserError(f"a task needs at least 2 labels, not {self.num_labels}")
        if self.num_labels is not None and self.num_labels > MOST_LABELS:
            raise UserError(f"a task has at most {MOST_LABELS:,} labels, not {self.num_labels}")
        if self.label_names and len(self.label_names) != self.num_labels:
            raise UserError(f"{len(self.label_names)} label names for {self.num_labels} labels")
        if len(set(self.label_names)) != len(self.label_names) or not all(map(str.strip, self.label_names)):
            raise UserError("label names must differ from each other and must not be empty")

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each label: as given, else its number."""
        return self.label_names or tuple(map(str, range(self.num_labels)))

    def check_files(self) -> None:
        """Raise UserError if a file of the task is missing, NotDownloaded if it is the course's. Reads nothing."""
        missing = [str(path) for path in (self.train, self.dev, self.test) if path and not os.path.exists(path)
                   and not (self.own and is_dataset(path))]
        if missing and self.downloadable:
            raise NotDownloaded(f"no such file: {', '.join(missing)}; `./setup.sh -m data.download` fetches it")
        if missing:
            raise UserError(f"no such file: {', '.join(missing)}")

    def path(self, split: SplitName) -> Path | None:
        """Return the file of a split; None for a task without one."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]

    def load(self) -> "Loaded":
        """Read all files of the task; of your own files, the labels become known. Raises DataError as the readers do.

        Examples of `test` have labels only where files of your own have them.
        """
        paths = {split: path for split in SPLITS if (path := self.path(split)) is not None}
        if self.own is None:
            return Loaded(self, {split: self.read(split) for split in paths})
        with _naming_memory(*paths.values()):
            files = read_own(paths, self.own, self.num_labels, self.label_names, self.rules)
        task = replace(self, num_labels=len(files.spellings), label_names=files.label_names, spellings=files.spellings)
        return Loaded(task, files.examples, files.notes, files.decisions)

    def read(self, split: SplitName) -> list[Example]:
        """Return the examples of a split, as `load` does."""
        path = self.path(split)
        if path is None and not (self.own and split == "dev"):
            raise UserError(f"task {self.name} has no {split} file")
        if self.own is not None:
            return self.load().examples[split]
        with _naming_memory(path):
            return read_examples(path, labelled=split != "test", num_labels=self.num_labels,
                                 label_names=self.label_names, rules=self.rules)


@dataclass(frozen=True)
class Loaded:
    """A task whose files are read."""

    task: Task  # with its labels
    examples: dict[SplitName, list[Example]]
    notes: tuple[str, ...] = ()  # what was decided about files of your own and what is odd about them, line by line
    decisions: dict[str, Any] = field(default_factory=dict)  # the same as part of a run's identity, for JSON


@contextlib.contextmanager
def _naming_memory(*paths: Path) -> Iterator[None]:
    """Turn a lack of memory into a DataError, which names files; or else it would be the model's."""
    try:
        yield
    except MemoryError as error:
        size = sum(path.stat().st_size for path in paths if path.is_file())
        raise DataError(f"{', '.join(map(str, paths))}: there is not enough memory to read {size:,} bytes") from error


def custom_task(train: str | Path, dev: str | Path | None = None, test: str | Path | None = None, *,
                num_labels: int | None = None, label_names: Sequence[str] = (), name: str = "own",
                options: Options = Options()) -> Task:  # noqa: B008 (frozen)
    """Return a task on your own files; its labels are declared, or found when they are read. UserError if they
    do not fit.

    Without a dev file, options.dev_share says how much of train becomes dev.
    """
    if dev is None and options.dev_share is None:
        raise UserError("a task on your own files needs a dev file, or the share of train to use as one")
    if num_labels is None and label_names:
        num_labels = len(label_names)
    return Task(name=name, train=Path(train), dev=None if dev is None else Path(dev),
                test=None if test is None else Path(test), num_labels=num_labels, label_names=tuple(label_names),
                own=options)


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
