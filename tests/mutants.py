"""Wrong variants of our own source: a file with a few pieces of text replaced, run as a module of its own."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mutate(file: str, *edits: tuple[str, str]) -> types.ModuleType:
    """The module in `file` with each `old` text (which must occur exactly once) replaced by `new`."""
    source = (ROOT / file).read_text(encoding="utf-8")
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {file}: mend this mutant"
        source = source.replace(old, new)
    module = types.ModuleType(f"mutant_of_{Path(file).stem}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, str(ROOT / file), "exec"), module.__dict__)
    return module


def caught_by(checks, *arguments) -> list[str]:
    """The mistakes that the checks name; empty where the variant passes them all. A crash is caught too."""
    mistakes = []
    for check in checks:
        try:
            result = check(*arguments)
        except Exception as error:
            mistakes.append(f"{check.__name__}: {type(error).__name__}: {error}")
        else:
            if not result.passed:
                mistakes.append(f"{check.__name__}: {result.mistake}")
    return mistakes
