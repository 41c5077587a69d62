"""Grade a student's expose functions: bugs that only the grader has, and right variants that must not be blamed.

The bugs are the mistakes of staff/mutants in the solution's own files. So, unlike everywhere else in the grader, the
process that runs a student's function also holds a solution, with a mistake in it. What the function prints is thrown
away, and all that leaves the process is one bit.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from staff.grader.case import COMPONENTS, Request
from staff.grader.grade import GIVEN, ROOT, STUBS
from staff.grader.sandbox import Sandbox
from staff.mutants.edit import edited
from staff.mutants.table import COMPONENT, MUTANTS, VARIANTS

CLASSES = {"optimizer": "AdamW", "attention": "CausalSelfAttention", "layer": "GPT2Layer", "model": "GPT2Model",
           "head": "GPT2SentimentClassifier"}


@dataclass
class PartGrade:
    """How the function for one part did."""

    part: str
    bugs: int
    right: int
    missing: bool = False
    exposed: list[str] = field(default_factory=list)  # ids of mutants
    blamed: list[str] = field(default_factory=list)  # ids of right variants, "V0" for the solution itself
    failed: dict[str, str] = field(default_factory=dict)  # id -> why the function said nothing of it

    @property
    def score(self) -> float:
        """The share of bugs exposed, less the share of right classes blamed; never below 0."""
        return max(0.0, len(self.exposed) / max(1, self.bugs) - len(self.blamed) / self.right)


def grade(exposes: bytes, box: Sandbox, progress: Callable[[], object] = lambda: None) -> list[PartGrade]:
    """Run a file of expose functions on every bug and every right variant of each part, each in its own process.

    A function that raises, or takes too long, says nothing: no bug is exposed by it, and no right class is spared.
    """
    functions = {node.name for node in ast.walk(ast.parse(exposes)) if isinstance(node, ast.FunctionDef)}
    grades = []
    for part in COMPONENTS:
        bugs = {id: edited(mutant) for id, mutant in MUTANTS.items() if COMPONENT[id] == part}
        right = {"V0": edited()} | {id: edited(variant) for id, variant in VARIANTS.items() if COMPONENT[id] == part}
        found = PartGrade(part, len(bugs), len(right), f"expose_{part}" not in functions)
        grades.append(found)
        for id, files in {**right, **bugs}.items():
            progress()
            if found.missing:
                continue
            said = ask(part, exposes, files, box)
            if isinstance(said, str):
                found.failed[id] = said
            if id in bugs and said is True:
                found.exposed.append(id)
            elif id in right and said is not False:
                found.blamed.append(id)
    return grades


def total() -> int:
    """Return how many classes a file is held to."""
    return len(MUTANTS) + len(VARIANTS) + len(COMPONENTS)


def ask(part: str, exposes: bytes, files: Mapping[str, bytes], box: Sandbox) -> bool | str:
    """Return what the function says of a part of some files: wrong or not, or a line on why it says nothing."""
    staged = {name: (ROOT / file).read_bytes() for name, file in GIVEN.items()}
    for folder in (STUBS / "all", STUBS / "buglab"):
        staged |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    module = COMPONENTS[part].removesuffix(".py").replace("/", ".")
    inputs = {"part": part, "module": module, "name": CLASSES[part]}
    reply = box.run({**staged, **files, "exposes.py": exposes}, Request("buglab.expose", inputs))
    if reply.arrays is None:
        return f"{reply.error}: {reply.message} ({reply.place})"
    wrong = reply.arrays.get("wrong")
    return bool(wrong) if wrong is not None and wrong.shape == () and wrong.dtype == bool else "a forged reply"
