"""Mistakes in prediction files, as changes of right ones. Each is noticed: it costs points, or staff are told."""

from collections.abc import Callable
from dataclasses import dataclass

from data.reader import Example
from staff.grader.cases.predictions import Labels, advice, form
from submission.manifest import PARTS, SPLITS
from submission.predictions import HEADER

FIRST = PARTS["last-linear-layer-sst"].predictions("dev")
COPY = PARTS["full-model-sst"].predictions("dev")

Files = dict[str, bytes]


@dataclass(frozen=True)
class Mutant:
    """A mistake in prediction files: `change` takes the right files and returns wrong ones."""

    id: str
    title: str
    change: Callable[[Files], Files]
    said: str  # words that the test's complaint, or the advice, must have
    advice: bool = False

    @property
    def killer(self) -> str:
        return "advice to staff" if self.advice else "predictions.form"

    def notices(self) -> str:
        """Return what is said of the changed files."""
        files, labels = self.change(right_files()), all_labels()
        return "\n".join(advice(files, labels)) if self.advice else form(files, labels, None)[1]


def all_labels(rows: int = 40) -> Labels:
    """Return made-up data files: every label occurs, and no two splits have an id in common."""
    return Labels({(part.task_name, split): [
        Example(f"{part.task_name}{split}{row}", "a text", row % part.task.num_labels) for row in range(rows)]
        for part in PARTS.values() for split in SPLITS})


def right_files() -> Files:
    """Return the eight files, with a few wrong rows in each, and more of them where GPT-2 is frozen."""
    files, labels = {}, all_labels()
    for part in PARTS.values():
        few = 1 if part.task_name == "cfimdb" else 19
        wrong = few + 3 * part.name.startswith("last")
        for split in SPLITS:
            lines = [f"{example.id}, {(example.label + (row < wrong)) % part.task.num_labels} "
                     for row, example in enumerate(labels.rows(part, split))]
            files[part.predictions(split)] = "".join(line + "\n" for line in [HEADER, *lines]).encode()
    return files


def row(number: int, change: Callable[[str], str]) -> Callable[[Files], Files]:
    """Return a change of one line of one file."""
    def changed(files: Files) -> Files:
        lines = files[FIRST].decode().split("\n")
        lines[number] = change(lines[number])
        return files | {FIRST: "\n".join(lines).encode()}

    return changed


def label(text: str) -> Callable[[Files], Files]:
    """Return a change of one row's label to a text."""
    return row(3, lambda line: f"{line.split(',')[0]}, {text} ")


def content(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    """Return a change of the content of one file."""
    return lambda files: files | {FIRST: change(files[FIRST])}


def without(files: Files, name: str) -> Files:
    return {file: data for file, data in files.items() if file != name}


def numbered(data: bytes) -> bytes:
    head, *rows = data.decode().splitlines()
    return "\n".join([head, *(f"{number}, {line.split(', ')[1]}" for number, line in enumerate(rows)), ""]).encode()


def constant(data: bytes) -> bytes:
    head, *rows = data.decode().splitlines()
    return "\n".join([head, *(f"{line.split(',')[0]}, 1 " for line in rows), ""]).encode()


MUTANTS = [
    Mutant("M76a", "a file is missing", lambda files: without(files, FIRST), "missing"),
    Mutant("M76b", "a file has another name",
           lambda files: without(files, FIRST) | {"predictions/sst-dev-out.csv": files[FIRST]}, "no file of this name"),
    Mutant("M76c", "a file has its header only", content(lambda data: data.split(b"\n")[0] + b"\n"),
           "no prediction for"),
    Mutant("M76d", "a tab stands in the place of the comma", row(3, lambda line: line.replace(", ", "\t")),
           "must be 'ID, LABEL '"),
    Mutant("M76e", "a label is 0.0", label("0.0"), "the label must be"),
    Mutant("M76f", "a label is tensor(3)", label("tensor(3)"), "the label must be"),
    Mutant("M76g", "a label is [3]", label("[3]"), "the label must be"),
    Mutant("M76h", "a file starts with a byte order mark", content(lambda data: b"\xef\xbb\xbf" + data),
           "byte order mark"),
    Mutant("M76i", "a file has Windows line ends", content(lambda data: data.replace(b"\n", b"\r\n")),
           "Windows line ends"),
    Mutant("M76j", "a file has an empty line", row(3, lambda line: f"{line}\n"), "is ''"),
    Mutant("M76k", "an id is there twice", row(3, lambda line: f"{line}\n{line}"), "there twice"),
    Mutant("M76l", "an id is missing", row(3, lambda line: line.replace("dev", "other")), "no prediction for"),
    Mutant("M76m", "the row's number stands in the place of the id", content(numbered), "no prediction for"),
    Mutant("M76n", "a label is 5, and there are five", label("5"), "the label must be"),
    Mutant("M76o", "a label is written in digits other than 0 to 9", label("\u0663"), "the label must be"),
    Mutant("M76p", "the last line is cut short", content(lambda data: data[:-3]), "does not end"),
    Mutant("M77a", "every row has the same label", content(constant), "says 1 for every row", advice=True),
    Mutant("M77b", "the files of two modes are the same", lambda files: files | {COPY: files[FIRST]}, "a copy?",
           advice=True),
]
