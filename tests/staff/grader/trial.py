"""Run the graded tests of a component on right and wrong files."""

from collections.abc import Iterable
from pathlib import Path

from staff.grader.case import CASES, Case
from staff.mutants import table
from staff.mutants.edit import Variant, edited

SETS = Path(__file__).resolve().parents[2] / "contract" / "sets"


def cases(component: str) -> list[Case]:
    """Return the graded tests of a component."""
    return [case for case in CASES.values() if case.component == component]


def right_files() -> dict[str, dict[str, bytes]]:
    """Return the solution, and the six sets that others wrote: name -> its files (path -> content)."""
    sets = {folder.name: {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}
            for folder in sorted(SETS.iterdir())}
    return {"solution": edited()} | sets


def wrong_files(file: str, mistake: str | Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """Return the solution with a mistake in a file: the id of a known one, or pairs (old text, new text)."""
    if isinstance(mistake, str):
        return edited(table.MUTANTS[mistake])
    return edited(Variant("an edit", file, "", tuple(mistake)))
