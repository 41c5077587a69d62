"""Run on Gradescope: read /autograder, write results/results.json, complete and valid whatever happens.

run_autograder has put a results.json there that says GRADER ERROR for every test; only a whole one takes its place.
"""

import contextlib
import json
import math
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import printable
from staff.grader import canary, receipts
from staff.grader.case import COMPONENTS
from staff.grader.entries import Refused
from staff.grader.grade import Entry, Graded, Late, Report, blank, declared, grade
from staff.grader.intake import take
from staff.grader.metadata import Previous, read_metadata, withheld
from staff.grader.sandbox import Sandbox

SIZE_LIMIT = 95_000
"Characters of results.json: Gradescope cuts a file of more than 100,000 in the middle, which then is not JSON."

HIDDEN = ("The graded inputs are drawn from a secret, so what is measured here is on public inputs of the same kind.")
GRADER_ERROR = "GRADER ERROR: the grader failed, not you; this is no judgement of your work. Please tell the staff."

STOPPED = {"time": "It took too long.", "memory": "It took too much memory.",
           "disk": "It wrote too much.", "output": "It printed too much.",
           "no reply": "Its process ended without an answer.", "bad reply": "Its answer could not be read.",
           "not run": "the time for all tests was over"}
"What a student reads for the sandbox's own errors: not the message, whose exit status a process may choose."


@dataclass
class Words:
    """What is said beside the tests: to the student, and to staff alone."""

    student: list[str] = field(default_factory=list)
    staff: list[str] = field(default_factory=list)


def student_text(graded: Graded) -> str:
    """Return what a student reads about a test: nothing that was measured on hidden inputs."""
    outcome, public = graded.outcome, graded.public
    if outcome.status == "passed":
        lines = ["passed", outcome.measured]
    elif outcome.status == "not implemented":
        seen = public is not None and public.status == "not implemented" and public.reply
        where = public.reply.place if seen else COMPONENTS[graded.component] if outcome.reply else outcome.measured
        lines = [f"not implemented: {where}"]
    elif outcome.status == "grader error":
        lines = [GRADER_ERROR]
    elif outcome.status == "not run" and outcome.reply:
        lines = [f"not run: {STOPPED['not run']}"]
    elif outcome.reply is None:  # nothing ran, so nothing hidden was measured
        lines = [f"{outcome.status}: {outcome.measured}"]
    else:
        lines = ["failed"]
        stopped = STOPPED.get(outcome.reply.error, "")
        lines.append(stopped)
        if public is None:
            lines.append("" if stopped else "It was not run on public inputs: no time was left.")
        elif public.passed:
            lines.append("On public inputs of the same kind it passes. Does it hold for every shape and value?")
        else:
            lines.append(f"On public inputs: {public.measured}")
        lines.append(f"Likely mistake: {graded.mistake}" if graded.mistake else "")
    return "\n".join(printable(line) for line in lines if line)


def staff_data(graded: Graded, limit: int) -> dict[str, Any]:
    """Return what staff see of a test, in texts of at most `limit` characters."""
    reply = graded.outcome.reply
    return {"test": graded.name, "status": graded.outcome.status, "measured": cut(graded.outcome.measured, limit),
            "mistake": cut(graded.mistake, limit)} | ({
                "error": cut(str(reply.error), limit), "place": cut(str(reply.place), limit),
                "printed": cut(printable(reply.printed), limit), "seconds": round(reply.seconds, 3)} if reply else {})


def cut(text: str, limit: int) -> str:
    """Return a text with its middle left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit * 2 // 3]} [...] {text[len(text) - limit // 3:]}"


def results(report: Report, words: Words, receipt: dict[str, Any] | None, previous: Previous,
            seconds: float) -> bytes:
    """Return the content of results.json: every declared test, in a size that Gradescope takes."""
    score = report.score
    head = [f"{score:g} of {report.points:g} points"]
    if report.grader_failed:
        score = min(max(score, previous.best), report.points)
        head = [GRADER_ERROR, f"Until it is run again your score is {score:g}, "
                f"{'your best earlier one' if score > report.score else 'what the other tests gave'}."]
    head += [HIDDEN] if any(graded.public for graded in report.graded) else []
    head += words.student + [f"Note: {note}" for note in report.notes]
    if receipt:
        head += ["Your receipt, to replay this verdict once the secret is published:",
                 json.dumps(public(receipt, report))]
    top = "\n".join(printable(line, 8000) for line in head)

    # Shorter texts until it fits.
    for limit in (3000, 1500, 700, 300, 100, 0):
        tests = [{
            "number": graded.entry.number, "name": graded.outcome.case.title, "name_format": "text",
            "score": graded.score, "max_score": graded.entry.points,
            "status": "passed" if graded.outcome.passed else "failed",
            "output": cut(student_text(graded), limit), "output_format": "text",
            "visibility": graded.entry.visibility, "extra_data": staff_data(graded, limit),
        } for graded in report.graded]
        content = json.dumps({
            "score": score, "execution_time": round(seconds), "output": cut(top, 10 * limit + 500),
            "output_format": "text", "test_output_format": "text", "test_name_format": "text",
            "visibility": "visible", "stdout_visibility": "hidden",
            "extra_data": {"receipt": receipt, "staff": [cut(line, limit) for line in words.staff]},
            "tests": tests,
            "leaderboard": [{"name": name, "value": value} for name, value in report.leaderboard.items()
                            if math.isfinite(value)],
        }, allow_nan=False, indent=1).encode("ascii")
        if len(content) <= SIZE_LIMIT:
            break
    return content


def public(receipt: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Return a receipt without the verdicts of tests that a student does not see."""
    seen = {graded.name for graded in report.graded if graded.entry.visibility == "visible"}
    return {**receipt, "tests": {name: status for name, status in receipt["tests"].items() if name in seen}}


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all; a link that somebody left there is replaced."""
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def time_allowed() -> float:
    """Return the seconds that a run may take: Gradescope's limit less a margin, for it then writes a score of 0."""
    try:
        limit = float(os.environ.get("TIMEOUT_SECONDS", ""))
    except ValueError:
        limit = 600.0
    limit = limit if 0 < limit < math.inf else 600.0
    return limit - min(60.0, limit / 4)


def run(root: Path, source: Path, minimum: str, daily: int = 0) -> int:
    """Grade what is in root/submission into root/results; return the exit status.

    source: the unpacked grader. minimum: the level that the sandbox must reach; below it nothing is graded.
    daily: how many submissions in 24 hours are scored on the test labels; 0 for all.
    """
    started = time.monotonic()
    deadline = started + time_allowed()
    previous = read_metadata(root / "submission_metadata.json")
    for folder in (root / "results", source):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    labels = source / "labels" if (source / "labels").is_dir() else None
    points = declared(labels)

    # The alarm comes again and again, in case that an end of a `with` hangs, too.
    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, deadline - started, 5)
    words, receipt = Words(), None
    if daily and previous.created is None:
        words.staff.append("submission_metadata.json holds no created_at, so the daily limit was not applied")
    report = blank(points, "the grader failed", "grader error")
    try:
        report, receipt = grade_here(root, source, points, labels, deadline, minimum, withheld(previous, daily))
    except Refused as error:
        report = blank(points, "the submission could not be read")
        words.student.append(f"The submission could not be read: {error}")
    except BaseException:  # whatever happens, the student gets a results.json
        words.staff.append(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

    words.staff += report.advice
    if receipt and previous.receipt:
        words.student += [f"Since your last submission: {line}" for line in receipts.changes(
            public(previous.receipt, report), public(receipt, report))]
    try:
        content = results(report, words, receipt, previous, time.monotonic() - started)
    except Exception:  # a reply that we could not write down: the students get a complete file all the same
        words = Words(staff=[*words.staff, traceback.format_exc()])
        report = blank(points, "its results could not be written", "grader error")
        content = results(report, words, None, previous, time.monotonic() - started)
    write(root / "results" / "results.json", content)
    tell_staff(report, words)
    return 0


def grade_here(root: Path, source: Path, points: Mapping[str, Entry], labels: Path | None, deadline: float,
               minimum: str, unscored: str) -> tuple[Report, dict[str, Any]]:
    """Grade root/submission, after the attacks of the canary; return the report and its receipt."""
    submission = take(root / "submission")
    secret = receipts.read_secret(source / "secret")
    box, report = Sandbox(minimum=minimum), None
    try:
        with box:
            canary.check(box)
            report = grade(submission, box, secret, points, labels, deadline, unscored)
    except Late:
        if report is None:
            raise
    receipt = receipts.receipt(report.verdicts, submission.sha256, secret, labels, str(box.level))
    return report, receipt | ({"limited": True} if unscored else {})


def tell_staff(report: Report, words: Words) -> None:
    """Print what staff want to know; Gradescope shows it to them alone."""
    print(f"{report.score:g} of {report.points:g} points")
    for line in words.staff:
        print(printable(line))
    for graded in report.graded:
        if not graded.outcome.passed:
            print(f"{graded.entry.number} {graded.name}: {graded.outcome.status}: "
                  f"{printable(cut(graded.outcome.measured, 2000))}")
    sys.stdout.flush()
