"""Three attacks and the reference solution go through the sandbox before any submission does.

A sandbox that lets an attack through, or a grader that takes points from the right answer, grades nothing.
"""

import ctypes
import importlib
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from staff.grader.case import CASES, COMPONENTS, Request
from staff.grader.sandbox import HERE, Reply, Sandbox

ROOT = HERE.parent.parent
STOPPED_BY = {"read_files": {"uid", "landlock"}, "read_memory": {"uid", "landlock", "not root"},
              "forge_results": {"uid", "landlock"}, "outlive": {"level 0"}}
"Attack (probes/canary.py) -> the measures that stop it, each alone. Level 0 guards the memory of all users but root."


class CanaryFailed(Exception):
    """An attack was let through, or the reference solution lost a point: nothing may be graded."""


@dataclass(frozen=True)
class Finding:
    """What check() saw: how each attack ended, and how many tests the reference solution passed."""

    attacks: dict[str, str]
    passed: int

    def __str__(self) -> str:
        attacks = ", ".join(f"{name.replace('_', ' ')}: {how}" for name, how in self.attacks.items())
        return f"{attacks}; the reference solution passes {self.passed} tests"


def check(box: Sandbox, reference: Mapping[str, bytes] | None = None, secret_folder: Path | None = None,
          seed: bytes = b"canary") -> Finding:
    """Try the attacks, then grade the reference solution; raise CanaryFailed with the reason.

    reference: path -> content; without it, this repository's own solution.
    secret_folder: where the grader keeps what a submission must not see; without it, the folder of this file, or the
    common one for temporary files where this user may not write there. An attack that nothing in the sandbox's level
    can stop is only reported, as "not stopped at this level": the sandbox's `minimum` decides whether that is enough.
    """
    if secret_folder is None:
        secret_folder = HERE if os.access(HERE, os.W_OK) else Path(tempfile.gettempdir())
    attacks, held = {}, {"level 0", *box.level.held, *(["not root"] if os.geteuid() else [])}
    for name, measures in STOPPED_BY.items():
        won = ATTACKS[name](box, secret_folder)
        if won and measures & held:
            raise CanaryFailed(f"the sandbox let an attack through: {name.replace('_', ' ')}: {won} ({box.level})")
        attacks[name] = "not stopped at this level" if won else "stopped"
    if reference is None:
        reference = {name: (ROOT / name).read_bytes() for name in COMPONENTS.values()}
    return Finding(attacks, grade_reference(box, reference, seed))


def grade_reference(box: Sandbox, reference: Mapping[str, bytes], seed: bytes) -> int:
    """Grade the reference solution by every test; return how many there are; raise CanaryFailed if one fails."""
    from staff.grader.grade import run_case

    for path in sorted((HERE / "cases").glob("*.py")):
        importlib.import_module(f"staff.grader.cases.{path.stem}")
    cases = [case for case in CASES.values() if case.component in COMPONENTS]  # the others run no code
    for case in cases:
        outcome = run_case(case, reference, box, seed)
        if not outcome.passed:
            raise CanaryFailed(f"the reference solution fails {case.name}: {outcome.status}: {outcome.measured}")
    return len(cases)


def attack(box: Sandbox, name: str, /, **inputs: object) -> Reply:
    """Run an attack, and insist that it ran: an attack that crashes would prove nothing."""
    reply = box.run({}, Request(f"canary.{name}", inputs))
    if reply.arrays is None:
        raise CanaryFailed(f"the attack {name.replace('_', ' ')} did not run: {reply.error}: {reply.message}")
    return reply


def read_files(box: Sandbox, folder: Path) -> str:
    """Look for a secret file in the grader's folder; return what was found."""
    token = secrets.token_hex(16)
    with tempfile.NamedTemporaryFile("w", prefix=".canary-", dir=folder) as file:
        file.write(token)
        file.flush()
        reply = attack(box, "read_files", path=file.name, folder=str(folder))
    return f"it read {file.name}" if token in str(reply.arrays["found"]) else ""


def read_memory(box: Sandbox, _: Path) -> str:
    """Look for a secret in this process's memory, environment and open files; return what was found."""
    token = secrets.token_hex(16)
    held = ctypes.create_string_buffer(token.encode())
    reply = attack(box, "read_memory", pid=os.getpid(), zygote=box.process.pid, address=ctypes.addressof(held))
    found = str(reply.arrays["found"])
    return f"it read this process: {found.replace(token, 'the secret')}" if found else ""


def forge_results(box: Sandbox, _: Path) -> str:
    """Have results.json overwritten; return what was changed."""
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        results = Path(folder, "results.json")
        results.write_text("honest")
        attack(box, "forge_results", path=str(results))
        with suppress(OSError):
            if [path.name for path in Path(folder).iterdir()] == ["results.json"] and results.read_text() == "honest":
                return ""
    return "it changed the folder of results.json"


def outlive(box: Sandbox, _: Path) -> str:
    """Leave a daemon behind; return what of it is still there."""
    token = secrets.token_hex(6)  # a process's name is 15 letters at most
    reply = attack(box, "outlive", name=token)
    if not np.any(reply.arrays["started"]):
        raise CanaryFailed("the attack outlive did not run: it could not start a process")
    time.sleep(0.05)
    names = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            names.append(Path("/proc", pid, "comm").read_text().strip())
    return "its process is still running" if token in names else ""


ATTACKS = {function.__name__: function for function in (read_files, read_memory, forge_results, outlive)}
