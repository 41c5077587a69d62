"""A known mistake, or another right way, as small edits of one file of the solution."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

Edits = tuple[tuple[str, str], ...]


class Moved(ValueError):
    """The solution's text has changed, and an edit no longer fits it."""


@dataclass(frozen=True)
class Mutant:
    """A mistake: `killer` is the test that must notice it. `wild`: seen in published student code."""

    id: str  # "M13a": the fourth letter tells the forms of one mistake apart
    file: str
    title: str
    killer: str
    edits: Edits
    wild: bool = False

    @property
    def number(self) -> str:
        """Return the id without the letter of its form: M13."""
        return self.id.rstrip("abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True)
class Variant:
    """Another right way to write a file: it must get full marks.

    unfit: mutants that make no sense on top of it, since they change what it has already taken out.
    """

    id: str
    file: str
    title: str
    edits: Edits
    unfit: tuple[str, ...] = ()


def apply(text: str, edits: Edits, name: str) -> str:
    """Return a text with each old text, which must occur exactly once, replaced; raise Moved where it does not."""
    for old, new in edits:
        if text.count(old) != 1:
            raise Moved(f"{name}: this text is {text.count(old)} times in the file, not once:\n{old}")
        text = text.replace(old, new)
    return text


def solution(root: Path = ROOT) -> dict[str, str]:
    """Return the five files of the solution: path -> text."""
    return {file: (root / file).read_text(encoding="utf-8") for file in FILES}


def edited(*changes: "Mutant | Variant", files: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Return the five files as a submission (path -> content), with some mistakes or variants, one after another."""
    texts = dict(files or solution())
    for change in changes:
        texts[change.file] = apply(texts[change.file], change.edits, change.id)
    return {file: text.encode() for file, text in texts.items()}


FILES = ("optimizer.py", "modules/attention.py", "modules/gpt2_layer.py", "models/gpt2.py", "classifier.py")
