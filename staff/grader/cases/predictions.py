"""Score prediction files against labels that only the grader holds. No code of a submission runs for this.

The tests have another form than those of code: function(files, labels, threshold) -> (status, what was measured). What
was measured may be shown to students; on test files it is rounded, so that the labels cannot be found by many tries.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.reader import Example, read_examples
from data.rules import Rules
from staff.grader.case import CASES, Case
from submission.manifest import PARTS, PREDICTIONS_LIMIT, SPLITS, Finding, Part
from submission.predictions import Predictions, advise, check_predictions

LINES_LIMIT = 10_000  # the course's largest file has 2,211 lines
STEP = 0.005  # what is told of test files is rounded to this
GAP = 0.06
"Accuracies on dev and test that are further apart ask for a look: four standard errors on SST, two on CFIMDB."

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Labels:
    """The course's data files, as far as the grader has them."""

    examples: dict[tuple[str, str], list[Example]] = field(default_factory=dict)
    "(task, split) -> the rows to be answered; their labels are None where only the ids are known."
    missing: tuple[str, ...] = ()
    "Files with labels that were not found."

    def rows(self, part: Part, split: str) -> list[Example] | None:
        """Return the rows that a prediction file must answer; None where they are not known."""
        return self.examples.get((part.task_name, split))

    def known(self, part: Part, split: str) -> bool:
        """Return whether these rows have labels."""
        rows = self.rows(part, split)
        return rows is not None and rows[0].label is not None


@functools.lru_cache(maxsize=4)
def read_labels(folder: Path | None) -> Labels:
    """Read ids-sst-dev.csv and ids-sst-test.csv, which have labels, and the same of cfimdb; whichever are there.

    Where a test file with labels is missing, ids-sst-test-student.csv gives the ids. Raises DataError for a bad file.
    """
    examples, missing = {}, []
    for part in PARTS.values():
        for split in SPLITS:
            given = Path(part.data(split)).name
            labelled = given.replace("-test-student", "-test")
            for name in (labelled, given) if folder else ():
                if (part.task_name, split) not in examples and (folder / name).exists():
                    examples[part.task_name, split] = read_examples(
                        folder / name, labelled=name == labelled, num_labels=part.task.num_labels, rules=Rules())
            if not (folder and (folder / labelled).exists()) and labelled not in missing:
                missing.append(labelled)
    return Labels(examples, tuple(missing))


def read(files: Files, labels: Labels, part: Part, split: str) -> Predictions:
    """Return the labels in one prediction file, and what is wrong with it."""
    name = part.predictions(split)
    if name not in files:
        return Predictions({}, [Finding(name, "missing")])
    content = files[name]
    if len(content) > PREDICTIONS_LIMIT or content.count(b"\n") > LINES_LIMIT:
        return Predictions({}, [Finding(name, f"{len(content)} bytes, {content.count(10)} lines: far too many")])
    return check_predictions(name, content, labels.rows(part, split), part.task.num_labels)


def form(files: Files, labels: Labels, threshold: None) -> tuple[str, str]:
    """All prediction files are there, in the course's form, with a label for every row"""
    lines = []
    for part in PARTS.values():
        for split in SPLITS:
            problems = read(files, labels, part, split).problems
            lines += [f"{problems[0]}{f' (and {len(problems) - 1} more)' if problems[1:] else ''}"] if problems else []
    expected = {part.predictions(split) for part in PARTS.values() for split in SPLITS}
    lines += [f"{name}: no file of this name is asked for" for name in sorted(files)
              if name.startswith("predictions/") and name not in expected]
    return ("failed", "\n".join(lines)) if lines else ("passed", "")


def accurate(part: Part, split: str, files: Files, labels: Labels, threshold: float) -> tuple[str, str]:
    """Compare the accuracy of one prediction file with a threshold."""
    predictions = read(files, labels, part, split)
    if predictions.problems:
        return "failed", f"cannot be scored: {predictions.problems[0]}"
    if not labels.known(part, split):
        return "not run", f"no labels: the grader has no labels for {part.task_name} {split}"
    accuracy, f1 = scores(predictions.labels, labels.rows(part, split))
    measured = f"accuracy {accuracy:.3f}, macro-F1 {f1:.3f}" if split == "dev" else f"accuracy {rounded(accuracy)}"
    if accuracy >= threshold:
        return "passed", measured
    return "failed", f"{measured}; {threshold} is needed"


def scores(predicted: Mapping[str, int], rows: Iterable[Example]) -> tuple[float, float]:
    """Return accuracy and macro-F1: the mean F1 of all labels that are right or predicted anywhere."""
    pairs = [(predicted[row.id], row.label) for row in rows]
    f1 = []
    for label in sorted({label for pair in pairs for label in pair}):
        both = sum(said == right == label for said, right in pairs)
        either = sum((said == label) + (right == label) for said, right in pairs)
        f1.append(2 * both / either)
    return sum(said == right for said, right in pairs) / len(pairs), sum(f1) / len(f1)


def rounded(accuracy: float) -> float:
    """Round to the nearest STEP."""
    return round(round(accuracy / STEP) * STEP, 4)


def leaderboard(files: Files, labels: Labels) -> dict[str, float]:
    """Return what the leaderboard shows: an accuracy for each part whose files are right, on test where that is known.

    The numbers are the grader's own, finite, and rounded.
    """
    board = {}
    for part in PARTS.values():
        split = next((split for split in ("test", "dev") if labels.known(part, split)), None)
        if split and not (predictions := read(files, labels, part, split)).problems:
            accuracy, _ = scores(predictions.labels, labels.rows(part, split))
            board[f"{part.task_name.upper()} {split}, {part.mode}"] = rounded(accuracy)
    return board


def advice(files: Files, labels: Labels) -> list[str]:
    """Return what staff should look at: predictions that are right in form and odd in content. Costs no points."""
    answers, accuracy = {}, {}
    for part in PARTS.values():
        for split in SPLITS:
            predictions, rows = read(files, labels, part, split), labels.rows(part, split)
            if predictions.problems or (split == "dev" and not labels.known(part, split)):
                continue
            answers[part.name, split] = predictions.labels, rows or []
            if labels.known(part, split):
                accuracy[part.name, split], _ = scores(predictions.labels, rows)
    lines = [str(finding) for finding in advise(answers)]
    for part in PARTS.values():
        dev, test = (accuracy.get((part.name, split)) for split in ("dev", "test"))
        if dev is not None and test is not None and abs(dev - test) > GAP:
            lines.append(f"{part.predictions('test')}: accuracy {test:.3f} on test, but {dev:.3f} on dev")
    return lines


def can_be_scored(name: str, labels: Labels) -> bool:
    """Return whether the grader has the labels that a test needs; without any, the form is not graded either."""
    if name == "predictions.form":
        return bool(labels.examples)
    part, split = CASES[name].function.args
    return labels.known(part, split)


def register() -> None:
    """Enter the tests in CASES: the form of all files, and for each part whether it learns, and how accurate it is."""
    CASES["predictions.form"] = Case("predictions.form", form.__doc__, form)
    for part in PARTS.values():
        of = f"{part.mode} on {part.task_name.upper()}"
        for name, split, title in (
                ("learns", "dev", f"{of}: better on dev than always saying the most frequent label"),
                ("dev", "dev", f"{of}: as accurate on dev as the published result"),
                ("test", "test", f"{of}: as accurate on test as the published result on dev")):
            name = f"predictions.{part.name}-{name}"
            CASES[name] = Case(name, title, functools.partial(accurate, part, split))


register()
