"""Grade one submission: every declared test once, each in a process of its own."""

import contextlib
import functools
import importlib
import json
import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from staff.grader import diagnosis, receipts
from staff.grader.case import CASES, COMPONENTS, Case, Wrong, generator
from staff.grader.cases import predictions
from staff.grader.intake import Submission
from staff.grader.sandbox import Reply, Sandbox

HERE = Path(__file__).resolve().parent
ROOT, STUBS = HERE.parent.parent, HERE / "stubs"
GIVEN = {"config.py": "course/config.py", "utils.py": "course/utils.py", "models/config.py": "models/config.py",
         "models/base_gpt.py": "models/base_gpt.py"}
"Files that are staged for every component -> where they are in this repository. They hold nothing to be solved."
SUPPORT = ("config.py", "utils.py", "models/base_gpt.py")
"Files of the course's starter; a submission's own take the place of ours."


PUBLIC = b"public"
"The seed of the inputs that a student may see: those of the feedback."

PREDICTIONS = "predictions"
"The component whose tests read files and run no code."

STATUSES = ("passed", "failed", "not implemented", "not run", "grader error")
PATIENCE = 3
"Number of tests of one file that may run out of time before its other tests are not run."


class Late(BaseException):
    """The grader's own deadline has passed; not an Exception, so that no test swallows it."""


@dataclass(frozen=True)
class Outcome:
    """What one test came to."""

    case: Case
    status: str  # one of STATUSES
    measured: str = ""  # for staff; for students where the test's inputs are public
    reply: Reply | None = None

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Entry:
    """What points.json says of a test."""

    number: str  # "2.1"
    points: float
    visibility: str = "visible"  # as in results.json: "hidden" also hides the total from students
    threshold: float | None = None  # the accuracy that predictions need
    reason: str = ""  # of the threshold

    def __post_init__(self) -> None:
        if not math.isfinite(self.points) or self.points < 0:
            raise ValueError(f"test {self.number}: {self.points} points")
        if self.visibility not in ("visible", "hidden", "after_due_date", "after_published"):
            raise ValueError(f"test {self.number}: no such visibility: {self.visibility}")


@dataclass
class Graded:
    """One line of a report: a declared test, what it came to, and what a student is told about it."""

    entry: Entry
    outcome: Outcome
    public: Outcome | None = None  # the same test on public inputs, run if one of its component failed
    mistake: str = ""  # the likely mistake, by diagnosis.py

    @property
    def name(self) -> str:
        return self.outcome.case.name

    @property
    def component(self) -> str:
        return self.outcome.case.component

    @property
    def score(self) -> float:
        return self.entry.points if self.outcome.passed else 0.0


@dataclass
class Report:
    """Every declared test of one submission, in the order of points.json."""

    graded: list[Graded]
    notes: list[str] = field(default_factory=list)  # for the student, too
    advice: list[str] = field(default_factory=list)  # for staff alone
    leaderboard: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return round(sum(graded.score for graded in self.graded), 2)

    @property
    def points(self) -> float:
        return round(sum(graded.entry.points for graded in self.graded), 2)

    @property
    def verdicts(self) -> dict[str, str]:
        """The status of each test, for the receipt."""
        return {graded.name: graded.outcome.status for graded in self.graded}

    @property
    def grader_failed(self) -> bool:
        return any(graded.outcome.status == "grader error" for graded in self.graded)


def declared(labels: Path | None, path: Path = HERE / "points.json") -> dict[str, Entry]:
    """Return the tests that every report lists: name -> entry. UserError unless tests and entries belong together.

    Predictions are graded where there are labels for them: what nobody can score is not declared.
    """
    for module in sorted((HERE / "cases").glob("*.py")):
        importlib.import_module(f"staff.grader.cases.{module.stem}")
    try:
        entries = {name: Entry(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error
    if differ := sorted(entries.keys() ^ CASES.keys()):
        raise UserError(f"{path} and the tests in {HERE / 'cases'} do not belong together: {', '.join(differ)}")
    known = predictions.read_labels(labels)
    return {name: entry for name, entry in entries.items()
            if CASES[name].component != PREDICTIONS or predictions.can_be_scored(name, known)}


def blank(points: Mapping[str, Entry], why: str, status: str = "not run") -> Report:
    """Return a report in which no test has run yet."""
    return Report([Graded(entry, Outcome(CASES[name], status, why)) for name, entry in points.items()])


def grade(submission: Submission, box: Sandbox, secret: bytes, points: Mapping[str, Entry],
          labels: Path | None = None, deadline: float = math.inf, unscored: str = "") -> Report:
    """Run every declared test on a submission, and those of failed components again on public inputs.

    labels: a folder with the hidden labels. deadline: a time of time.monotonic(); what has not run by then is listed
    as not run, and the rest counts. unscored: why nothing is scored on the test labels; "" where it is.
    """
    report = blank(points, "the time of the whole run was over")
    report.notes += submission.notes + ([unscored] if unscored else [])
    seed = receipts.seed_of(secret, submission.sha256)
    box.deadline = deadline
    try:
        for graded in report.graded:
            if unscored and reads_test_labels(graded.outcome.case):
                graded.outcome = Outcome(graded.outcome.case, "not run", unscored)
            elif time.monotonic() < deadline:
                graded.outcome = run_declared(graded, submission, box, seed, report, labels)
        feedback(report, submission, box, deadline)
        extras(report, submission, labels)
        if unscored:
            report.leaderboard = {}
    except Late:
        report.notes.append("the grader's own deadline passed while a test ran")
    return report


def run_declared(graded: Graded, submission: Submission, box: Sandbox, seed: bytes, report: Report,
                 labels: Path | None) -> Outcome:
    """Run one test, unless its file is known not to run; a bug of ours becomes its outcome, too."""
    case, file = graded.outcome.case, COMPONENTS.get(graded.component)
    if file in submission.broken:
        return Outcome(case, "failed", submission.broken[file])
    slow = [other for other in report.graded if other.component == case.component
            and other.outcome.reply and other.outcome.reply.error == "time"]
    if len(slow) >= PATIENCE:
        return Outcome(case, "not run", f"{PATIENCE} tests of {file} took longer than {box.seconds:g} s")
    try:
        if case.component == PREDICTIONS:
            if not any(name.startswith("predictions/") for name in submission.usable):
                return Outcome(case, "not implemented", "no prediction file is in the submission")
            known = predictions.read_labels(labels)
            return Outcome(case, *case.function(submission.usable, known, graded.entry.threshold))
        return run_case(case, submission.usable, box, seed)
    except Exception:
        return Outcome(case, "grader error", traceback.format_exc())


def reads_test_labels(case: Case) -> bool:
    """Return whether a test compares predictions with labels that students do not have: those of a test file."""
    return case.component == PREDICTIONS and getattr(case.function, "args", ())[1:] == ("test",)


def extras(report: Report, submission: Submission, labels: Path | None) -> None:
    """Add what earns no points: the leaderboard, and what staff should look at. A bug in it costs nobody the rest."""
    try:
        known = predictions.read_labels(labels)
        report.leaderboard = predictions.leaderboard(submission.usable, known)
        report.advice += predictions.advice(submission.usable, known)
    except Exception:
        report.advice.append(traceback.format_exc())


def feedback(report: Report, submission: Submission, box: Sandbox, deadline: float) -> None:
    """Run the tests of failed components on public inputs, each in a process of its own, and name the mistake."""
    by_component: dict[str, list[Graded]] = {}
    for graded in report.graded:
        by_component.setdefault(graded.component, []).append(graded)
    for component, tests in by_component.items():
        if COMPONENTS.get(component) in submission.broken or component not in COMPONENTS \
                or not any(graded.outcome.status in ("failed", "not implemented") for graded in tests):
            continue
        for graded in tests:
            if time.monotonic() > deadline:
                return
            reply = graded.outcome.reply
            if graded.outcome.status != "not run" and not (reply and reply.error == "time"):  # it would take as long
                with contextlib.suppress(Exception):  # a bug of ours, which the graded run has shown already
                    graded.public = run_case(graded.outcome.case, submission.usable, box, PUBLIC)
        replies = {graded.name: graded.public.reply for graded in tests if graded.public and graded.public.reply}
        try:
            mistake = diagnosis.diagnose(component, replies)
        except Exception:  # feedback that is missing costs nobody points
            report.advice.append(traceback.format_exc())
            continue
        for graded in tests:
            if graded.public and graded.public.status == "failed":
                graded.mistake = mistake


def stage(component: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that a test of a component sees: the submission's one, and stubs in the place of the others."""
    own = {name: files[name] for name in (*SUPPORT, COMPONENTS[component]) if name in files}
    return {**given(component), **own}


@functools.cache
def given(component: str) -> dict[str, bytes]:
    """Return what the grader brings along: files of the course that everyone has, and stubs."""
    staged = {name: (ROOT / file).read_bytes() for name, file in GIVEN.items()}
    for folder in (STUBS / "all", STUBS / component):
        staged |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    return staged


def run_case(case: Case, files: Mapping[str, bytes], box: Sandbox, seed: bytes) -> Outcome:
    """Run one test on a submission's files (path -> content)."""
    if COMPONENTS[case.component] not in files:
        return Outcome(case, "not implemented", f"{COMPONENTS[case.component]} is not in the submission")
    test = case.function(generator(seed, case.name))
    reply = box.run(stage(case.component, files), next(test))
    if reply.arrays is None:
        status = reply.error if reply.error in ("not implemented", "not run") else "failed"
        return Outcome(case, status, f"{reply.error}: {reply.message} ({reply.place})", reply)
    try:
        test.send(reply.arrays)
    except StopIteration as end:
        return Outcome(case, "passed", end.value or "", reply)
    except Wrong as wrong:
        return Outcome(case, "failed", wrong.measured, reply)
    raise TypeError(f"{case.name} asks for more than one request")
