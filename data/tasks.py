"""Tasks: which files, which labels, how texts are read. A table of known ones, a function for your own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.errors import UserError, quoted
from data.reader import Example, read_examples
from data.rules import COURSE_RULES, OWN_RULES, Rules

Split = Literal["train", "dev", "test"]
Mode = Literal["last-linear-layer", "full-model"]

DATA_FOLDER = Path(__file__).resolve().parent
SAMPLE_FOLDER = DATA_FOLDER / "sample"


@dataclass(frozen=True)
class Task:
    """A classification task. Checked on construction: UserError where the values make no sense together."""

    name: str
    "Names its run folder and prediction files."
    train: Path
    dev: Path
    test: Path | None
    "Has no labels, or labels that are not read."
    num_labels: int
    label_names: tuple[str, ...] = ()
    "One for each label, from 0 up; none means that labels go by their numbers."
    lowercase: bool = False
    "Lower-case every text before it is tokenised, as the course does."
    max_length: int = 512
    "Tokens of a text that are kept; the model's own limit holds besides."
    batch_size: int = 8
    rules: Rules = OWN_RULES
    "What the reader undoes."
    downloadable: bool = False
    "The files come with `python -m data.download`."

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

    def path(self, split: Split) -> Path | None:
        """The file of a split; None for a task without a test file."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]

    def check_files(self) -> None:
        """Raise UserError, saying how to get it, if a file of the task is missing. Reads nothing."""
        files = [path for path in (self.train, self.dev, self.test) if path is not None]
        missing = [str(path) for path in files if not os.path.exists(path)]
        if not missing:
            return
        message = f"no such file: {', '.join(missing)}"
        if self.downloadable:
            message += ("\n`./setup.sh -m data.download` fetches the course's files; "
                        "`./setup.sh classifier.py --quick` needs no download")
        raise UserError(message)

    def read(self, split: Split) -> list[Example]:
        """The examples of a split, those of `test` without labels. DataError as in `read_examples`."""
        path = self.path(split)
        if path is None:
            raise UserError(f"task {self.name} has no {split} file")
        return read_examples(path, labelled=split != "test", num_labels=self.num_labels,
                             label_names=self.label_names, rules=self.rules)

    def label_name(self, label: int) -> str:
        """What to call a label in words."""
        return self.label_names[label] if self.label_names else str(label)


def custom_task(
    train: str | Path,
    dev: str | Path,
    test: str | Path | None = None,
    *,
    num_labels: int | None = None,
    label_names: Sequence[str] = (),
    name: str = "own",
) -> Task:
    """A task on your own files; paths are taken as given, relative ones from the working folder.

    Give `num_labels`, or `label_names` for as many labels as there are names, or both.
    """
    if num_labels is None and not label_names:
        raise UserError("a task on your own files needs the number of its labels, or their names")
    return Task(name=name, train=Path(train), dev=Path(dev), test=None if test is None else Path(test),
                num_labels=len(label_names) if num_labels is None else num_labels,
                label_names=tuple(label_names))


SST_LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
CFIMDB_LABELS = ("negative", "positive")


def _built_in(name: str, folder: Path, labels: tuple[str, ...], max_length: int) -> Task:
    """A task whose files are named as the course names them; lower-cased and in batches of 8, as there."""
    return Task(
        name=name,
        train=folder / f"ids-{name}-train.csv",
        dev=folder / f"ids-{name}-dev.csv",
        test=folder / f"ids-{name}-test-student.csv",
        num_labels=len(labels),
        label_names=labels,
        lowercase=True,
        max_length=max_length,
        rules=COURSE_RULES,
        downloadable=folder == DATA_FOLDER,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _built_in("sst", DATA_FOLDER, SST_LABELS, max_length=128),
        _built_in("cfimdb", DATA_FOLDER, CFIMDB_LABELS, max_length=512),
        _built_in("sst-sample", SAMPLE_FOLDER, SST_LABELS, max_length=128),
        _built_in("cfimdb-sample", SAMPLE_FOLDER, CFIMDB_LABELS, max_length=512),
    )
}


@dataclass(frozen=True)
class Recipe:
    """Training settings that depend on task, mode and backbone; each is a flag's default."""

    lr: float
    epochs: int = 10
    batch_size: int = 8
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    "Share of all steps in which the learning rate rises to `lr`."
    dropout: float = 0.3
    "Before the linear head."
    backbone_dropout: float | None = None
    "Inside the backbone while it is trained; None is the checkpoint's own."
    word_dropout: float = 0.0
    "Share of a text's words that are blank in each training step of full-model mode."
    freeze_word_embedding: bool = False
    """Keep the words' vectors as pretrained in full-model mode. AdamW moves a rare word as far in a step as a common
    one, and leaves words where they are that are not in the training texts, however near they lie."""
    head_lr: float | None = None
    """Learning rate of the linear head in full-model mode; None is `lr`. The head starts from nothing: at the rate of
    the backbone it stays nearly random, and the backbone gives up what it knows to suit it."""


COURSE_DEFAULTS: dict[Mode, Recipe] = {
    "last-linear-layer": Recipe(lr=1e-3),
    "full-model": Recipe(lr=1e-5),
}
"""The course's settings, for every backbone but the bundled one."""

_HEAD = Recipe(lr=3e-3, epochs=30, batch_size=32, schedule="linear", dropout=0.1)
_WHOLE = Recipe(lr=1.5e-4, epochs=3, batch_size=32, schedule="linear", warmup=0.1, dropout=0.1)

TINY_DEFAULTS: dict[tuple[str, Mode], Recipe] = {
    ("sst", "last-linear-layer"): _HEAD,
    ("sst", "full-model"): _WHOLE,
    ("cfimdb", "last-linear-layer"): Recipe(lr=1e-2, epochs=100, batch_size=32, schedule="linear", dropout=0.0),
    ("cfimdb", "full-model"): replace(_WHOLE, lr=2.5e-4, head_lr=1e-2, epochs=6, batch_size=16, word_dropout=0.3,
                                      freeze_word_embedding=True),
    ("sst-sample", "last-linear-layer"): replace(_HEAD, epochs=60, batch_size=16, dropout=0.0),
    ("sst-sample", "full-model"): replace(_WHOLE, lr=3e-4, epochs=8, batch_size=16),
    ("cfimdb-sample", "last-linear-layer"): replace(_HEAD, epochs=60, batch_size=16, dropout=0.0),
    ("cfimdb-sample", "full-model"): replace(_WHOLE, lr=3e-4, epochs=8, batch_size=16),
}
"""The bundled gpt2-tiny's settings for the built-in tasks, chosen on dev; it is 16 times smaller than GPT-2."""


def recipe(task: Task, mode: Mode, *, tiny: bool) -> Recipe:
    """The settings for a task, a mode and the bundled (`tiny`) or any other backbone.

    On gpt2-tiny your own files get SST's settings.
    """
    if not tiny:
        return COURSE_DEFAULTS[mode]
    return TINY_DEFAULTS.get((task.name, mode), TINY_DEFAULTS["sst", mode])
