"""Run graded tests on many submissions: on all cores, each with a sandbox of its own."""

import importlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from common.cli import progress
from staff.grader.case import CASES
from staff.grader.grade import HERE, PUBLIC, run_case
from staff.grader.sandbox import Reply, Sandbox

BOX: Sandbox | None = None
"The sandbox of this worker process; it ends with the process."


@dataclass(frozen=True)
class Job:
    """One test to run on one submission; `key` says whose it is."""

    key: str
    case: str
    files: dict[str, bytes]
    seed: bytes = PUBLIC


@dataclass(frozen=True)
class Verdict:
    """How a job went."""

    key: str
    case: str
    passed: bool
    measured: str
    reply: Reply
    seed: bytes = PUBLIC


def cases_of(component: str) -> list[str]:
    """Return the names of a component's tests."""
    load_cases()
    return [name for name, case in CASES.items() if case.component == component]


def load_cases() -> None:
    """Fill CASES."""
    for path in sorted((HERE / "cases").glob("*.py")):
        importlib.import_module(f"staff.grader.cases.{path.stem}")


def verdicts(jobs: Sequence[Job], describe: str) -> Iterator[Verdict]:
    """Run jobs; yield their verdicts in the order of the jobs."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of whoever calls
    with ProcessPoolExecutor(max(1, min(len(jobs), os.cpu_count() or 1)), context, start) as pool, \
            progress(len(jobs), describe, "test") as bar:
        for verdict in pool.map(run, jobs, chunksize=8):
            bar.update()
            yield verdict


def start() -> None:
    """Start this worker's sandbox."""
    global BOX
    load_cases()
    BOX = Sandbox()
    BOX.__enter__()


def run(job: Job) -> Verdict:
    """Run a job in this worker's sandbox."""
    outcome = run_case(CASES[job.case], job.files, BOX, job.seed)
    return Verdict(job.key, job.case, outcome.passed, outcome.measured, outcome.reply, job.seed)
