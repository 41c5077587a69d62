"""Hold a student's expose functions to bugs and to the student's own classes."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from buglab.bugs import BUGS, Bug
from common.errors import UserError, quoted
from common.student_files import describe
from sanity.checks import Result

PARTS = {"optimizer": ("optimizer", "AdamW"), "attention": ("modules.attention", "CausalSelfAttention"),
         "layer": ("modules.gpt2_layer", "GPT2Layer"), "model": ("models.gpt2", "GPT2Model"),
         "head": ("classifier", "GPT2SentimentClassifier")}
"Part -> the student's module and class."

TEMPLATE = '''def expose_{part}({name}):
    """Whether this class is wrong: build it, try the smallest input."""
    raise NotImplementedError
'''


def own_class(part: str) -> type:
    """Return the student's class of a part; UserError while the part does not pass its own checks."""
    module, name = PARTS[part]
    checks = importlib.import_module(f"sanity.{part}")
    try:
        kind = getattr(importlib.import_module(module), name)
        passed = all(passes(check, kind) for check in (checks.PARTS if part == "model" else checks.CHECKS))
    except Exception:
        passed = False
    if not passed:
        raise UserError(f"{part} comes first: its bugs open when ./setup.sh sanity_check.py --only {part} passes")
    return kind


def passes(check: Callable[[type], Result], kind: type) -> bool:
    """Whether a check passes; one that raises does not."""
    try:
        return check(kind).passed
    except Exception:
        return False


def read_exposes(path: Path) -> dict[str, Callable[[type], bool]]:
    """Import a file of expose functions; part -> function. UserError if it cannot be imported or has none."""
    if not path.is_file():
        raise UserError(f"no file {quoted(str(path))}: write one with functions such as expose_attention")
    spec = importlib.util.spec_from_file_location("exposes", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        where, line, what = describe(error)
        raise UserError(f"{path} cannot be imported: {where}:{line}: {what}") from None
    found = {part: getattr(module, f"expose_{part}") for part in PARTS if hasattr(module, f"expose_{part}")}
    if not found:
        raise UserError(f"{path} has none of the functions {', '.join(f'expose_{part}' for part in PARTS)}")
    return found


def says_wrong(expose: Callable[[type], bool], kind: type) -> bool | str:
    """Return what an expose function says of a class, or a line on why it says nothing."""
    try:
        answer = expose(kind)
    except Exception as error:
        where, line, what = describe(error)
        return f"{where or 'a library'}:{line}: {what}"
    return answer if isinstance(answer, bool) else f"it returns {type(answer).__name__}, not True or False"


def try_bug(bug: Bug, kind: type, expose: Callable[[type], bool]) -> tuple[bool, str]:
    """Return whether a function exposes a bug and spares the right class, and a line on how that went."""
    of_right, of_wrong = says_wrong(expose, kind), says_wrong(expose, bug.put_into(kind))
    if isinstance(of_right, str):
        return False, f"it fails on your own class: {of_right}"
    if of_right:
        return False, "a false alarm: it says that your own class is wrong, too"
    if isinstance(of_wrong, str):
        return False, f"it fails on the bug: {of_wrong}; return True if that is how it shows"
    return of_wrong, f"exposed: {bug.title}" if of_wrong else "not exposed: it finds nothing wrong with this bug"


def numbered(part: str) -> dict[int, Bug]:
    """Return the bugs of a part by their numbers."""
    return {number: bug for number, bug in enumerate(BUGS, 1) if bug.part == part}
