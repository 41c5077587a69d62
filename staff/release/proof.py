"""Prove a starter: it gives nothing away, and its holes are exactly what the checks and the grader ask for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from staff.grader.case import CASES, COMPONENTS
from staff.grader.grade import declared, run_case
from staff.grader.sandbox import Sandbox
from staff.release.build import ROOT, SOLUTION, build, hints
from staff.release.leaks import leaks
from staff.release.markers import Hole, fill, find_holes

IDIOMS = ("x.to(y.dtype)", "x.transpose(1, 2).y")
"Pieces of a hole that any PyTorch program may hold."

PART_OF = {file: part for part, file in COMPONENTS.items()}


@dataclass(frozen=True)
class Line:
    """One row of the proof's table."""

    claim: str
    shown: str
    holds: bool


def holes(root: Path = ROOT) -> list[Hole]:
    """Return every hole of the five files."""
    return [hole for file in SOLUTION for hole in find_holes(file, (root / file).read_text(encoding="utf-8"))]


def prove(folder: Path, root: Path = ROOT) -> list[Line]:
    """Build starters in a folder, raw and with holes filled in turn, and try everything that the proof claims."""
    all_holes = holes(root)
    names = [hole.name for hole in all_holes]
    parts = {part: [hole.name for hole in all_holes if hole.file == file] for part, file in COMPONENTS.items()}

    # Which holes each tree has filled: none, one, one part's, all.
    fillings = {"none": [], **{name: [name] for name in names}, **parts, "all": names}
    trees = {title: folder / f"starter-{number}" for number, title in enumerate(fillings)}
    for title, filled in fillings.items():
        build(trees[title], root, filled)
    build(folder / "again", root)

    raw = trees["none"]
    table = [compiles(raw), identical(raw, folder / "again"), restored(raw, root), nothing_leaks(raw, root, all_holes),
             under_40_megabytes(raw)]
    table += checks_follow(fillings, trees, run_checks(trees.values(), root), parts)
    table += graded_tests_follow(fillings, trees, parts)
    return table


def compiles(tree: Path) -> Line:
    files = sorted(tree.rglob("*.py"))
    wrong = []
    for path in files:
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            wrong.append(f"{path.relative_to(tree)}: {error}")
    return Line("every Python file compiles", "; ".join(wrong) or f"{len(files)} files", not wrong)


def identical(one: Path, other: Path) -> Line:
    """Compare two builds: names, contents, and which files may be executed."""
    def everything(tree: Path) -> dict[str, tuple[bytes, int]]:
        return {path.relative_to(tree).as_posix(): (path.read_bytes(), path.stat().st_mode)
                for path in tree.rglob("*") if path.is_file()}

    first, second = everything(one), everything(other)
    apart = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    return Line("two builds are identical", ", ".join(apart) or f"{len(first)} files", not apart)


def restored(tree: Path, root: Path) -> Line:
    """Fill every hole of the raw starter, and compare with the solution byte for byte."""
    wrong = [file for file in SOLUTION if (root / file).read_text(encoding="utf-8") != fill(
        file, (tree / file).read_text(encoding="utf-8"), (root / file).read_text(encoding="utf-8"), hints(root))]
    return Line("all holes filled give the solution, byte for byte", ", ".join(wrong) or f"{len(SOLUTION)} files",
                not wrong)


def nothing_leaks(tree: Path, root: Path, all_holes: Sequence[Hole]) -> Line:
    """Search every text of the starter for the holes' lines, and for markers."""
    texts = {}
    for path in sorted(tree.rglob("*")):
        if path.is_file() and path.name != "tokenizer.json":  # a list of 16,384 pieces of words
            try:
                texts[path.relative_to(tree).as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                assert path.suffix in (".safetensors", ".npy", ".png"), f"{path}: what is this?"
    given = [*IDIOMS, *(texts[file] for file in SOLUTION)]
    found = leaks({hole.name: hole.text for hole in all_holes}, given, texts)
    found += [f"{file}: a marker" for file, text in texts.items() if "BEGIN SOLUTION" in text]
    staff = [name for name in texts if name.split("/")[0] in ("staff", "engine", "tests", "benchmarks", ".git")]
    found += [f"{name} belongs to the staff" for name in staff]
    return Line("no line of a solution anywhere", "; ".join(found[:5]) or f"{len(texts)} texts", not found)


def under_40_megabytes(tree: Path) -> Line:
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) / 1e6
    return Line("at most 40 MB", f"{size:.1f} MB", size <= 40)


def run_checks(trees: Iterable[Path], root: Path) -> list[dict[str, str]]:
    """Return what the student's checks say in each tree: check -> "ok", "FAIL", "TODO"."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([sys.executable, "-m", "staff.release.checks", *map(str, trees)], cwd=root, check=True,
                         stdout=subprocess.PIPE, text=True, env=environment)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def checks_follow(fillings: dict[str, list[str]], trees: dict[str, Path], said: list[dict[str, str]],
                  parts: dict[str, list[str]]) -> list[Line]:
    """Hold every tree's checks to its holes: green where the part is filled, "not implemented" elsewhere."""
    lines = []
    for (title, filled), result in zip(fillings.items(), said, strict=True):
        done = {part for part, names in parts.items() if set(names) <= set(filled)}
        begun = {part for part, names in parts.items() if set(names) & set(filled)}
        if {"attention", "layer", "model"} <= done:
            done.add("whole")
        green = [check for check, status in result.items() if status == "ok"]
        wrong = [f"{check} is {status}" for check, status in result.items()
                 if (status == "FAIL") or (status == "ok") < (part_of(check) in done)
                 or (status == "ok") > (part_of(check) in done | begun)]
        lines.append(Line(f"checks with {title} filled", "; ".join(wrong) or f"{len(green)} of {len(result)} pass, the "
                          "others say TODO", not wrong))
    return lines


def part_of(check: str) -> str:
    return check.partition(".")[0]


def graded_tests_follow(fillings: dict[str, list[str]], trees: dict[str, Path],
                        parts: dict[str, list[str]]) -> list[Line]:
    """The same for the grader's tests; a hole that is met must name itself."""
    declared(None)  # fills CASES
    tests = [case for case in CASES.values() if case.component in COMPONENTS]
    lines, named = [], set()
    all_names = {name for names in parts.values() for name in names}
    with Sandbox() as box:
        for title, filled in fillings.items():
            files = {file: (trees[title] / file).read_bytes() for file in SOLUTION}
            wrong, passed, waiting = [], 0, 0
            for case in tests:
                names = parts[case.component]
                if title not in ("none", "all") and not set(names) & set(filled):
                    continue  # as in the raw starter: nothing of this part is filled
                outcome = run_case(case, files, box, b"proof")
                passed += outcome.passed
                if outcome.status == "not implemented":
                    waiting += 1
                    if outcome.reply.message in all_names:
                        named.add(outcome.reply.message)
                    if outcome.reply.message not in set(names) - set(filled):
                        wrong.append(f"{case.name} names {outcome.reply.message!r}")
                elif not outcome.passed:
                    wrong.append(f"{case.name}: {outcome.measured}")
                if outcome.passed and not set(names) & set(filled):
                    wrong.append(f"{case.name} passes")
                if not outcome.passed and set(names) <= set(filled):
                    wrong.append(f"{case.name} does not pass")
            lines.append(Line(f"graded tests with {title} filled", "; ".join(wrong[:5]) or f"{passed} pass, {waiting} "
                              "say not implemented", not wrong))
    missing = sorted(all_names - named)
    lines.append(Line("each hole names itself", ", ".join(missing) or f"{len(named)} holes", not missing))
    return lines


def as_markdown(table: Sequence[Line]) -> str:
    """Return the proof as a page."""
    rows = "\n".join(f"| {line.claim} | {line.shown} | {'yes' if line.holds else '**no**'} |" for line in table)
    return ("# The starter gives nothing away\n\n`./setup.sh -m staff.release prove` builds the starter raw and with "
            "its holes filled in turn, tries\neverything below, and writes this page.\n\n"
            f"| claim | seen | holds |\n|---|---|---|\n{rows}\n")
