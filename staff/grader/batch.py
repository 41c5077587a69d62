"""Grade a folder of submissions on all cores, so that a run that was killed goes on where it stopped.

Each result is a file of its own, results/NAME.json, written whole. grades.csv and class.html are made of these files at
the end; they hold no time, so a run in two pieces ends with the same bytes as one in one piece.
"""

import csv
import io
import json
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from common.cli import progress
from common.errors import UserError, printable
from common.files import make_folder, write_atomic
from staff.grader import canary, receipts
from staff.grader.entries import JUNK, Refused
from staff.grader.grade import Entry, blank, declared, grade
from staff.grader.gradescope import Words, results
from staff.grader.intake import take
from staff.grader.metadata import Previous
from staff.grader.page import page, status_of
from staff.grader.sandbox import Sandbox, SandboxError
from submission import manifest

READY = "ready"
"What a process says when it wants a submission."


def submissions(paths: Sequence[Path]) -> dict[str, Path]:
    """Return name -> zip or folder, by name. A folder that is no submission itself holds some."""
    found: dict[str, Path] = {}
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() and not any((path / file).exists() for file in
                                                                     manifest.SOURCES) else [path]
        for one in inside:
            if one == path or ((one.suffix == ".zip" or one.is_dir()) and not JUNK.search(one.name)):
                name = one.name.removesuffix(".zip")
                if found.setdefault(name, one) != one:
                    raise UserError(f"{found[name]} and {one} have the same name: rename one")
    if not found:
        raise UserError(f"no zip and no folder in {', '.join(map(str, paths))}")
    return dict(sorted(found.items()))


def grade_all(paths: Sequence[Path], out: Path, secret: bytes, labels: Path | None, workers: int,
              minimum: str) -> int:
    """Grade all submissions that have no result yet; write grades.csv and class.html; return the exit status."""
    found, points, folder = submissions(paths), declared(labels), out / "results"
    make_folder(folder)
    with Sandbox(minimum=minimum) as box:
        canary.check(box)
        print(f"sandbox: {box.level}")

    todo = [(name, path) for name, path in found.items() if not is_done(folder / f"{name}.json", path, secret, labels)]
    if len(todo) < len(found):
        print(f"{len(found) - len(todo)} of {len(found)} are graded already")
    run_workers(todo, folder, secret, labels, min(workers, len(todo)))

    rows = {name: json.loads((folder / f"{name}.json").read_bytes()) for name in found}
    write_atomic(out / "grades.csv", table(rows, points))
    write_atomic(out / "class.html", page(rows))
    print(f"Graded {len(found)} submissions: {out / 'grades.csv'}, {out / 'class.html'}, {folder}")
    wrong = [name for name, row in rows.items() if status_of(row) == "grader error"]
    if wrong:
        print(f"GRADER ERROR in {len(wrong)}: {printable(', '.join(wrong[:5]))}; their JSON says why")
    return 1 if wrong else 0


def is_done(file: Path, path: Path, secret: bytes, labels: Path | None) -> bool:
    """Return whether a result is there, without a grader error, for this very submission, grader, secret and labels."""
    with suppress(OSError, ValueError, Refused):
        row = json.loads(file.read_bytes())
        now = {"submission": take(path, parse=False).sha256, "secret": receipts.commitment(secret),
               "grader": receipts.version(), "labels": receipts.labels_hash(labels)}
        receipt = receipts.find_receipt(row) or {}
        return status_of(row) == "graded" and all(receipt.get(field) == value for field, value in now.items())
    return False


def run_workers(todo: list[tuple[str, Path]], folder: Path, secret: bytes, labels: Path | None, count: int) -> None:
    """Share the submissions out to processes, one at a time each. A process that dies is replaced by another."""
    context, waiting, died = multiprocessing.get_context("spawn"), todo[::-1], set()
    started: list[Any] = []
    workers: dict[Connection, tuple[int, tuple[str, Path] | None]] = {}

    def start(index: int) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, index, folder, secret, labels), daemon=True)
        process.start()
        started.append(process)
        theirs.close()
        workers[ours] = (index, None)

    with progress(len(todo), "grading", "submission") as bar:
        try:
            for index in range(count):
                start(index)
            while workers:
                for connection in wait(list(workers)):
                    index, task = workers.pop(connection)
                    try:
                        said = connection.recv()
                    except (EOFError, OSError):
                        said = None
                    if said == READY:
                        bar.update(task is not None)
                        following = waiting.pop() if waiting else None
                        with suppress(OSError):  # where it has just died, the next recv says so
                            connection.send(following)
                        if following:
                            workers[connection] = (index, following)
                            continue
                    elif task is None:  # it ended before it had anything to do, and so would the next one
                        raise UserError(said or "a grading process cannot start; what it printed above says why")
                    elif task in died:  # a second time
                        why = "the grading process died twice"
                        write_atomic(folder / f"{task[0]}.json", results(
                            blank(declared(labels), why, "grader error"), Words(staff=[why]), None, Previous(), 0))
                        bar.update()
                    else:
                        died.add(task)
                        waiting.append(task)
                    connection.close()
                    if waiting and said != READY:
                        start(index)
        except BaseException:
            for process in started:
                process.terminate()
            raise
        finally:
            for process in started:
                process.join()


def work(connection: Connection, index: int, folder: Path, secret: bytes, labels: Path | None) -> None:
    """Grade what comes through the connection, in a sandbox of this process, until it brings None or closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the end of the sandbox
    points = declared(labels)
    try:
        with suppress(EOFError, BrokenPipeError), Sandbox(worker=index) as box:
            connection.send(READY)
            while task := connection.recv():
                name, path = task
                file = folder / f"{name}.json"
                write_atomic(file, result(file, path, box, secret, labels, points))
                connection.send(READY)
    except (SandboxError, UserError) as error:
        connection.send(str(error))


def result(file: Path, path: Path, box: Sandbox, secret: bytes, labels: Path | None,
           points: Mapping[str, Entry]) -> bytes:
    """Return the results.json of a submission; with what a regrade changed, if there is an earlier one in `file`."""
    started, words, receipt = time.monotonic(), Words(), None
    try:
        submission = take(path)
        report = grade(submission, box, secret, points, labels)
        words.staff += report.advice
        receipt = receipts.receipt(report.verdicts, submission.sha256, secret, labels, str(box.level))
        with suppress(OSError, ValueError):
            if earlier := receipts.find_receipt(json.loads(file.read_bytes())):
                words.student += [f"Regraded: {line}" for line in receipts.changes(earlier, receipt)]
    except Refused as error:
        report = blank(points, "the submission could not be read")
        words.student.append(f"The submission could not be read: {error}")
    return results(report, words, receipt, Previous(), time.monotonic() - started)


def replay(receipt: Mapping[str, Any], path: Path, secret: bytes, labels: Path | None) -> dict[str, Any]:
    """Grade a submission again and return the new receipt. UserError if the old one is of another submission."""
    submission = take(path)
    for field, value, what in (("secret", receipts.commitment(secret), "secret"),
                               ("submission", submission.sha256, "submission")):
        if receipt.get(field) != value:
            raise UserError(f"not the {what} of this receipt: its sha256 is {value},\nthe receipt says "
                            f"{printable(str(receipt.get(field)), 80)}")
    with Sandbox() as box:
        report = grade(submission, box, secret, declared(labels), labels)
        return receipts.receipt(report.verdicts, submission.sha256, secret, labels, str(box.level))


def table(rows: Mapping[str, dict[str, Any]], points: Mapping[str, Entry]) -> str:
    """Return grades.csv: a line for each submission, its total, then its components, then its tests."""
    components = list(dict.fromkeys(name.partition(".")[0] for name in points))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["submission", "status", "score", *components, *points, "sha256"])
    for name, row in rows.items():
        scores = {test["extra_data"]["test"]: test["score"] for test in row["tests"]}
        sums = [round(math.fsum(score for test, score in scores.items() if test.partition(".")[0] == component), 2)
                for component in components]
        receipt = receipts.find_receipt(row) or {}
        # A cell that begins like a formula would be run by a spreadsheet; names of zips are the students' own.
        safe = f"'{name}" if name[:1] in "=+-@\t" else name
        writer.writerow([printable(safe), status_of(row), *(f"{number:g}" for number in
                        (row["score"], *sums, *(scores.get(test, 0) for test in points))),
                         receipt.get("submission", "")])
    return file.getvalue()
