"""Errors in the student's files: told in two lines, wherever a program meets them."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from common.errors import Stopped, UserError
from common.terminal import say, surviving_output

ROOT = Path(__file__).resolve().parent.parent
CHECKS = {"optimizer.py": "optimizer_test.py", "modules/attention.py": "sanity_check.py",
          "modules/gpt2_layer.py": "sanity_check.py", "models/gpt2.py": "sanity_check.py",
          "classifier.py": "sanity_check.py"}
"""The student's files in the order in which they are written, and the script that checks each."""


@contextlib.contextmanager
def explain_student_errors() -> Iterator[None]:
    """Turn an error out of the student's files into a UserError: where it is, what it is, and what checks the file.

    An error whose last line in this repository is one of ours keeps its traceback.
    """
    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:
        file, line, what = describe(error)
        if file not in CHECKS:
            raise
        advice = f"Check it: ./setup.sh {CHECKS[file]}"
        unwritten = [name for name in CHECKS if "raise NotImplementedError" in _text(name)]
        if isinstance(error, NotImplementedError) and unwritten:
            advice = f"Begin with {unwritten[0]}, then check it: ./setup.sh {CHECKS[unwritten[0]]}"
        raise UserError(f"{file}:{line}: {what}\n{advice}") from error


def explain_import_errors() -> None:
    """From now on an error out of the student's files ends the process like this outside `explain_student_errors`, too.

    For the import of these files, which a script does at its top.
    """
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        file, line, what = describe(error) if isinstance(error, Exception) else ("", 0, "")
        if file not in CHECKS:
            usual(kind, error, trace)
            return
        with surviving_output():
            say(f"error: {file}:{line}: {what}\nCheck it: ./setup.sh {CHECKS[file]}", error=True)
        os._exit(2)

    sys.excepthook = hook


def describe(error: Exception) -> tuple[str, int, str]:
    """Where an error comes from, and what it is: (file in this repository or "", line, one line of words)."""
    if isinstance(error, SyntaxError):
        return _name(error.filename or ""), error.lineno or 0, f"SyntaxError: {error.msg}"
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if name := _name(frame.filename):
            # PyTorch raises NotImplementedError too, where a device lacks an operation: that is not a hole.
            hole = isinstance(error, NotImplementedError) and "NotImplementedError" in (frame.line or "")
            return name, frame.lineno or 0, f"{frame.name} is not written yet" if hole else what
    return "", 0, what


def _name(file: str) -> str:
    """A file's path in this repository; empty outside of it, and for installed packages."""
    path = Path(file).resolve()  # as ROOT is: the repository may be reached through a link
    inside = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".venv")
    return path.relative_to(ROOT).as_posix() if inside else ""


def _text(name: str) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (ROOT / name).read_text(encoding="utf-8")
    return ""
