"""Commit and reveal: a secret that is published as a hash before the deadline, and a receipt that can be replayed.

The inputs of the graded tests are drawn from HMAC-SHA256(secret, SHA-256 of the submission). The secret's own SHA-256
stands in the handout, so staff cannot choose it afterwards; once it is published, everyone can run a receipt again.
"""

import functools
import hashlib
import hmac
import importlib.metadata
import itertools
import json
import os
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError, quoted

ROOT = Path(__file__).resolve().parents[2]

VERDICT = ("staff/grader", "staff/mutants", "submission", "course", "models/config.py", "models/base_gpt.py")
"What decides a verdict: the grader, and the files that it puts around a submission's."

REASONS = {"submission": "the submission", "secret": "the secret", "grader": "the grader's version",
           "labels": "the hidden labels", "python": "Python's version", "numpy": "NumPy's version",
           "torch": "PyTorch's version", "sandbox": "the sandbox's level", "limited": "the daily limit's effect"}
"The fields of a receipt beside `tests`, in the order in which they explain a change."


def seal(path: Path) -> str:
    """Write a new secret that only its owner can read; return its commitment. UserError if the file exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        raise UserError(f"{path} exists: a second secret would change every seed. Give another name, or keep it") \
            from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    secret = secrets.token_hex(32).encode()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        os.fchmod(file.fileno(), 0o600)
    return commitment(secret)


def read_secret(path: Path) -> bytes:
    """Return the secret in a file that `seal` wrote. UserError if it is none."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"cannot read the secret {path}: {error.strerror}") from error
    if len(secret) != 64 or not set(secret) <= set(b"0123456789abcdef"):
        raise UserError(f"{path} holds no secret: `python -m staff.grader seal FILE` writes one")
    return secret


def commitment(secret: bytes) -> str:
    """Return the SHA-256 of a secret, as `sha256sum` prints it for the file."""
    return hashlib.sha256(secret).hexdigest()


def seed_of(secret: bytes, submission: str) -> bytes:
    """Return the seed of a submission's inputs; submission: its SHA-256."""
    return hmac.new(secret, submission.encode(), hashlib.sha256).digest()


def files_of(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the code and tables in a tree that some patterns name: path -> content, in order of their paths."""
    found = {}
    for place in itertools.chain.from_iterable(map(root.glob, names)):
        for path in place.rglob("*") if place.is_dir() else [place]:
            if path.is_file() and path.suffix in (".py", ".json", ".npz"):
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


@functools.cache
def version(root: Path = ROOT) -> str:
    """Return a hash of all that decides a verdict, apart from the secret and the labels, as this process found it."""
    return digest_of(files_of(root, VERDICT))


def label_files(labels: Path | None) -> dict[str, bytes]:
    """Return the files of a folder of labels that the grader reads: name -> content."""
    return {path.name: path.read_bytes() for path in sorted(labels.glob("ids-*.csv"))
            if not path.name.endswith("-train.csv")} if labels else {}


def labels_hash(labels: Path | None) -> str | None:
    """Return a hash of the hidden labels, None without any."""
    return digest_of(label_files(labels)) if labels else None


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of what `sha256sum` prints for some files in order."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def receipt(verdicts: Mapping[str, str], submission: str, secret: bytes, labels: Path | None,
            level: str) -> dict[str, Any]:
    """Return what makes a verdict repeatable, and the verdict, test by test. It holds no time, so repeats are equal."""
    return {
        "submission": submission, "secret": commitment(secret), "grader": version(), "labels": labels_hash(labels),
        "python": platform.python_version(), "numpy": importlib.metadata.version("numpy"),
        "torch": next((found.version for found in importlib.metadata.distributions(name="torch")), None),
        "sandbox": level,
        "tests": dict(verdicts),
    }


def read_receipt(path: Path) -> dict[str, Any]:
    """Return the receipt in a file: a receipt, or the results.json that holds one. UserError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the receipt {path}: {error}") from error
    found = find_receipt(found) or found
    if not isinstance(found, dict) or not isinstance(found.get("tests"), dict) or "submission" not in found:
        raise UserError(f"{path} holds no receipt: give a receipt, or a results.json")
    return found


def find_receipt(results: Any) -> dict[str, Any] | None:
    """Return the receipt in the content of a results.json, None if it has none."""
    extra = results.get("extra_data") if isinstance(results, dict) else None
    found = extra.get("receipt") if isinstance(extra, dict) else None
    return found if isinstance(found, dict) and isinstance(found.get("tests"), dict) else None


def changes(previous: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two receipts, test by test, and first of all why; nothing if all is equal."""
    before, after = previous["tests"], now["tests"]
    lines = [f"{name}: {before.get(name, 'no such test')} -> {after.get(name, 'no such test')}"
             for name in dict.fromkeys((*after, *before)) if before.get(name) != after.get(name)]
    differ = [words for field, words in REASONS.items() if previous.get(field) != now.get(field)]
    if not lines and not differ:
        return []
    if not lines:
        return [f"The verdict is the same, though this differs: {', '.join(differ)}"]
    head = "1 test changed its verdict" if len(lines) == 1 else f"{len(lines)} tests changed their verdict"
    why = f"; {', '.join(differ)} changed" if differ else ", though nothing that a receipt names did"
    return [head + why, *(f"  {quoted(line, 200)[1:-1]}" for line in lines)]
