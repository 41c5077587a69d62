"""The kill matrix: each known mistake is noticed by its named test, and by no test of another part; each right variant
gets full marks. What is found goes to docs/kill-matrix.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.cli import progress
from common.files import write_atomic
from staff.grader.case import CASES
from staff.grader.grade import PUBLIC, stage
from staff.mutants import loop, predictions
from staff.mutants.edit import ROOT, apply, edited
from staff.mutants.running import Job, cases_of, load_cases, verdicts
from staff.mutants.table import COMPONENT, MUTANTS, ROOMS, VARIANTS

PAGE = ROOT / "docs" / "kill-matrix.md"
SEEDS = 20
"A variant must get full marks on so many seeds. A mutant is run on the first MUTANT_SEEDS."
MUTANT_SEEDS = 3
HEAD = f"""# Known mistakes, and the tests that notice them

The numbers are those of the course's list of mistakes. A star: seen in students' published code. "Its test"
must notice the mistake on each of {MUTANT_SEEDS} seeds; "also" are the other tests that do. A test of another file
never does: it sees a stub in the place of this one. A right variant gets full marks on each of {SEEDS} seeds.

`./setup.sh -m staff.mutants matrix` runs all of it and writes this page; `tests/staff/mutants/test_matrix.py` holds it.
"""

Kills = dict[str, list[str]]


def seeds(count: int) -> list[bytes]:
    """Return the public seed and others."""
    return [PUBLIC, *(f"matrix {number}".encode() for number in range(1, count))]


def mutant_jobs(quick: bool) -> list[Job]:
    """Return what to run of the mutants: all tests of their part, or only the named one (quick)."""
    unmapped = sorted({f"{mutant.id}: there is no test {mutant.killer}" for mutant in MUTANTS.values()
                       if mutant.killer not in CASES})
    if unmapped:
        raise ValueError("; ".join(unmapped))
    jobs = []
    for mutant in MUTANTS.values():
        files = edited(mutant)
        cases = [mutant.killer] if quick else cases_of(COMPONENT[mutant.id])
        jobs += [Job(mutant.id, case, files, seed) for case in cases for seed in seeds(1 if quick else MUTANT_SEEDS)]
    return jobs


def variant_jobs(quick: bool) -> list[Job]:
    """Return what to run of the solution and the variants: all tests of their part, on one seed (quick) or many."""
    work = [("the solution", component, edited()) for component in ROOMS]
    work += [(variant.id, COMPONENT[variant.id], edited(variant)) for variant in VARIANTS.values()]
    return [Job(name, case, files, seed) for name, component, files in work for case in cases_of(component)
            for seed in seeds(1 if quick else SEEDS)]


def strangers() -> Iterator[str]:
    """Yield a complaint for each mutant or variant that a test of another part can see at all."""
    right = edited()
    for change in (*MUTANTS.values(), *VARIANTS.values()):
        wrong = edited(change)
        for other in ROOMS.keys() - {COMPONENT[change.id]}:
            if stage(other, wrong) != stage(other, right):
                yield f"{change.id} reaches the tests of {other}, which must see a stub in the place of {change.file}"


def check(quick: bool = False) -> tuple[Kills, list[str]]:
    """Run mutants and variants; return id -> names of the tests that notice it on every seed, and what is wrong."""
    load_cases()
    wrong, kills = list(strangers()), {}
    survived: dict[tuple[str, str], bool] = {}
    for verdict in verdicts(mutant_jobs(quick), "mutants"):
        survived[verdict.key, verdict.case] = survived.get((verdict.key, verdict.case), False) or verdict.passed
    for (id, case), alive in survived.items():
        if not alive:
            kills.setdefault(id, []).append(case)
    wrong += [f"{mutant.id} ({mutant.title}) survives its test {mutant.killer}" for mutant in MUTANTS.values()
              if mutant.killer not in kills.get(mutant.id, [])]
    for verdict in verdicts(variant_jobs(quick), "right variants"):
        if not verdict.passed:
            wrong.append(f"{verdict.key} is right, but fails {verdict.case} (seed {verdict.seed!r}): "
                         f"{verdict.measured}")
    wrong += [f"{mutant.id} ({mutant.title}) survives: {mutant.killer} does not say {mutant.said!r}"
              for mutant in predictions.MUTANTS if mutant.said not in mutant.notices()]
    return kills, wrong


def check_loops() -> list[str]:
    """Run each mistake of the training loop in a copy of the repository, against its named test; return complaints."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_tree(Path(folder, "tree"))
        tests = sorted({mutant.killer for mutant in loop.MUTANTS})
        if said := run_tests(root, tests):
            return [f"the training loop's tests fail without any mistake: {said}"]
        for mutant in progress(loop.MUTANTS, "mistakes in the loop", "mutant"):
            path = root / mutant.file
            right = path.read_text(encoding="utf-8")
            path.write_text(apply(right, mutant.edits, mutant.id), encoding="utf-8")
            if not run_tests(root, [mutant.killer]):
                wrong.append(f"{mutant.id} ({mutant.title}) survives its test {mutant.killer}")
            path.write_text(right, encoding="utf-8")
    return wrong


def copy_of_tree(target: Path) -> Path:
    """Copy what git knows of this repository, without documents and benchmarks."""
    listed = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split("\0")
    for file in listed:
        if file and not file.startswith(("docs/", "benchmarks/")) and (ROOT / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
    return target


def run_tests(root: Path, tests: list[str]) -> str:
    """Run pytest in a copy of the tree; return the last line that it prints where tests fail, else nothing."""
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'course'}"}
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return (done.stdout.strip() or "failed").splitlines()[-1] if done.returncode else ""


def page(kills: Kills) -> str:
    """Return the text of docs/kill-matrix.md."""
    lines = [HEAD]
    for room in ROOMS.values():
        lines += [f"## {room.MUTANTS[0].file}", "", "| | mistake | its test | also |", "|---|---|---|---|"]
        for mutant in room.MUTANTS:
            also = [name.partition(".")[2] for name in kills[mutant.id] if name != mutant.killer]
            lines.append(f"| {mutant.id}{'*' * mutant.wild} | {mutant.title} | `{mutant.killer.partition('.')[2]}` | "
                         f"{', '.join(also)} |")
        lines += ["", "Right in another way:", ""]
        lines += [f"- {variant.id}: {variant.title}" for variant in room.VARIANTS] + [""]
    lines += ["## Training and prediction", "", "Ours; students write none of it. `tests/` notices:", "",
              "| | mistake | its test |", "|---|---|---|"]
    lines += [f"| {mutant.id} | {mutant.title} | `{mutant.killer.partition('::')[2]}` |" for mutant in loop.MUTANTS]
    lines += ["", "## Prediction files", "", "| | mistake | its test |", "|---|---|---|"]
    lines += [f"| {mutant.id} | {mutant.title} | {mutant.killer} |" for mutant in predictions.MUTANTS]
    return "\n".join(lines) + "\n"


def run(quick: bool) -> list[str]:
    """Check everything; write the page where all is well and nothing was left out. Return what is wrong."""
    kills, wrong = check(quick)
    if not quick:
        wrong += check_loops()
    if not quick and not wrong:
        write_atomic(PAGE, page(kills))
    return wrong
