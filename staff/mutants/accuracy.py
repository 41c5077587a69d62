"""How often the diagnosis names the right mistake: of ours in other bases, of pairs, and of mistakes by others."""

import itertools
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from common.files import write_atomic
from staff.grader import diagnosis
from staff.grader.case import CASES, COMPONENTS
from staff.grader.diagnosis import Diagnosis, Known, Table, Trace
from staff.mutants import replies
from staff.mutants.edit import ROOT, Variant, apply, edited, solution
from staff.mutants.running import Job, cases_of, load_cases, verdicts
from staff.mutants.table import COMPONENT, MUTANTS, ROOMS, VARIANTS

PAGE = ROOT / "docs" / "diagnosis.md"
CONTRACT = ROOT / "tests" / "contract"
PAIRS = 200

BY_OTHERS = {
    "correct_bias ignored": "M4", "crash with correct_bias False": "M6", "decay before the update": "M15a",
    "eps inside the square root": "M17", "eps ignored": "M18a", "eps in the textbook place": "", "betas fixed": "M19b",
    "coupled L2 instead of decoupled decay": "M11", "decay without lr": "M12", "no decay": "M13a",
    "step counter shared among parameters": "M8a", "step starts at 0": "M7a", "moments reset on every step": "M10d",
    "lr read from the defaults": "M23a", "gradient ascent": "M25", "no scale": "M27", "scaled by the head size": "M28a",
    "scaled by sqrt of hidden size": "M28b", "no causal mask": "M29",
    "causal mask off by one, sees the next token": "M30a", "causal mask transposed": "M31",
    "padding mask ignored": "M35a",
    "query and key swapped": "M37a", "dropout before the softmax": "M39", "no attention dropout": "M40a",
    "attention dropout probability hard-coded": "M40e", "heads split by view": "M38a", "causal mask on the CPU": "M41",
    "post-norm": "M44", "first residual missing": "M47a", "residual from the normed input": "M46a",
    "same layer norm twice": "M45c", "no dropout in the layer": "M51g", "dropout on the residual sum": "M51c M51d",
    "ReLU instead of GELU": "M50c", "no activation": "M50a", "no positions": "M53a", "positions start at 1": "M53b",
    "no embedding dropout": "M54a", "no final layer norm": "M56a", "final layer norm twice": "M56b",
    "last_token is the last position": "M58a", "only the first layer is run": "M60b",
    "hidden_state_to_token wrong": "M59b",
    "softmax in the output": "M61a", "mean of last_hidden_state": "M62b", "dropout on the logits": "M64",
    "not frozen": "M68a", "head frozen too": "M68b", "five labels hard-coded": "M66a",
}
"A mistake in tests/contract/mistakes.json -> the known mistakes that it is; none where it is right in another way."


@dataclass(frozen=True)
class Trial:
    """One file with known mistakes (or none), and what the diagnosis made of it."""

    name: str
    titles: frozenset[str]
    found: Diagnosis

    @property
    def result(self) -> str:
        """Return "right", "wrong" or "no answer". Every mistake that is named must be in the file."""
        if any(self.titles.isdisjoint(group) for group in self.found.mistakes):
            return "wrong"
        if not self.titles:
            return "wrong" if self.found.rest else "right"
        return "right" if self.found.mistakes else "no answer"


def run() -> str:
    """Measure, write docs/diagnosis.md and return its table."""
    load_cases()
    table = diagnosis.read_table()
    if table.keys != {component: replies.key(component) for component in ROOMS}:
        raise ValueError("mistakes.npz is not of this solution, these mistakes and tests: run `replies` first")
    pairs = list(random_pairs())
    work = {"each mistake alone, in the solution": list(ours()),
            "each mistake alone, in a right variant that the table does not know": list(alone()),
            "the correct variants: silence is right": list(right()),
            f"{PAIRS} random pairs, in a right variant that the table does not know": pairs}
    traces = by_hand(itertools.chain(*work.values()))
    rows = {name: list(itertools.islice(traces, len(files))) for name, files in work.items()}
    groups = {name: trials(table, files, rows[name]) for name, files in work.items()}
    groups["the same pairs, with a table without them"] = trials(without(table, pairs), pairs, list(rows.values())[-1])
    others = list(theirs())
    groups["mistakes by others, in six sets of files by others"] = trials(table, others, by_pipe(others))
    text = page(groups, version(table))
    write_atomic(PAGE, text)
    return text


Work = tuple[str, frozenset[str], str, dict[str, bytes]]  # name, titles, component, files


def ours() -> Iterator[Work]:
    """Yield each mistake in the solution."""
    for mutant in MUTANTS.values():
        yield mutant.id, frozenset([mutant.title]), COMPONENT[mutant.id], edited(mutant)


def right() -> Iterator[Work]:
    """Yield each right variant."""
    for variant in VARIANTS.values():
        yield variant.id, frozenset(), COMPONENT[variant.id], edited(variant)


def alone() -> Iterator[Work]:
    """Yield each mistake in a random variant that it fits and that the table does not know."""
    draw, texts = random.Random(0), solution()
    for component, room in ROOMS.items():
        for mutant in room.MUTANTS:
            if fitting := [variant for variant in others(component) if replies.fits(texts, variant, mutant)]:
                variant = draw.choice(fitting)
                yield (f"{mutant.id} in {variant.id}", frozenset([mutant.title]), component,
                       edited(variant, mutant, files=texts))


def others(component: str) -> list[Variant]:
    """Return the variants that the table does not know. V14 only prints, V15 only adds an argument."""
    return [variant for variant in ROOMS[component].VARIANTS
            if variant.id not in replies.BASES[component] and variant.id[:3] not in ("V14", "V15")]


def random_pairs() -> Iterator[Work]:
    """Yield PAIRS random pairs of mistakes of one file, in random variants that the table does not know."""
    draw, texts, found = random.Random(0), solution(), set()
    while len(found) < PAIRS:
        component = draw.choice(list(ROOMS))
        room = ROOMS[component]
        first, second = draw.sample(room.MUTANTS, 2)
        variant = draw.choice(others(component))
        name = f"{first.id} and {second.id} in {variant.id}"
        if name not in found and replies.fits(texts, variant, first, second):
            found.add(name)
            yield (name, frozenset([first.title, second.title]), component,
                   edited(variant, first, second, files=texts))


def theirs() -> Iterator[Work]:
    """Yield the mistakes in tests/contract/mistakes.json, in the files of the sets."""
    for mistake in json.loads((CONTRACT / "mistakes.json").read_text(encoding="utf-8")):
        ids = BY_OTHERS[mistake["name"]].split()
        folder = CONTRACT / "sets" / mistake["set"]
        files = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
        edits = ((mistake["old"], mistake["new"]),)
        files[mistake["file"]] = apply(files[mistake["file"]], edits, mistake["name"])
        component = next(name for name, file in COMPONENTS.items() if file == mistake["file"])
        yield (f"{mistake['name']} ({mistake['set']})", frozenset(MUTANTS[id].title for id in ids), component,
               {file: text.encode() for file, text in files.items()})


Row = dict[str, Trace]
"The traces of one file's tests."


def by_pipe(work: list[Work]) -> Iterator[Row]:
    """Run files through the sandbox."""
    jobs = [Job(str(number), case, files) for number, (_, _, component, files) in enumerate(work)
            for case in cases_of(component)]
    for _, group in itertools.groupby(verdicts(jobs, "mistakes by others"), lambda verdict: verdict.key):
        yield {verdict.case: diagnosis.trace(CASES[verdict.case], verdict.reply)
               for verdict in group if diagnosis.told(verdict.reply)}


def by_hand(work: Iterable[Work]) -> Iterator[Row]:
    """Run files of ours in worker processes."""
    return replies.run_all([(component, files, cases_of(component)) for _, _, component, files in work], "mistakes")


def trials(table: Table, work: list[Work], rows: Iterable[Row]) -> list[Trial]:
    """Diagnose files by their traces; leave out mistakes that a variant makes harmless."""
    return [Trial(name, titles, table.find(component, row))
            for (name, titles, component, _), row in zip(work, rows, strict=True)
            if not (titles and all(trace.passed for trace in row.values()))]


def without(table: Table, pairs: list[Work]) -> Table:
    """Return the table without the entries of some pairs."""
    gone = {titles for _, titles, _, _ in pairs}

    def kept(known: Known) -> Known:
        stay = np.array([frozenset(entry) not in gone for entry in known.titles])
        return replace(known, titles=known.titles[stay], failed=known.failed[stay], said=known.said[stay],
                       words=known.words[stay], sums=known.sums[stay])

    return replace(table, components={name: kept(known) for name, known in table.components.items()})


def version(table: Table) -> str:
    """Return what the page says of the table that it was measured with."""
    return f"{zlib.crc32(repr(sorted(table.keys.items())).encode()):08x}"


def page(groups: dict[str, list[Trial]], table: str) -> str:
    """Return the text of docs/diagnosis.md."""
    lines = ["# How often the grader names the right mistake", "",
             "A diagnosis is right where every mistake that it names is in the file (of two, one is enough), wrong",
             "where it names another, and no answer where it is \"no known mistake\". In brackets: right, but with a",
             "choice of two or three mistakes.", "", "| | files | right | wrong | no answer |", "|---|---|---|---|---|"]
    for name, trials in groups.items():
        count = {result: sum(trial.result == result for trial in trials) for result in ("right", "wrong", "no answer")}
        share = {result: f"{number} ({100 * number / len(trials):.1f}%)" for result, number in count.items()}
        choice = sum(trial.result == "right" and any(len(group) > 1 for group in trial.found.mistakes)
                     for trial in trials)
        lines.append(f"| {name} | {len(trials)} | {share['right']} [{choice}] | {share['wrong']} | "
                     f"{share['no answer']} |".replace("[", "(").replace("]", ")"))
    for result in ("wrong", "no answer"):
        lines += ["", f"## {result.capitalize()}", ""]
        for name, trials in groups.items():
            bad = [trial for trial in trials if trial.result == result]
            if bad:
                lines += [f"{name}:", "", *(f"- {trial.name}" + (f": {trial.found}" if result == "wrong" else "")
                                            for trial in bad), ""]
    return "\n".join(lines).rstrip() + (f"\n\n`./setup.sh -m staff.mutants accuracy` writes this page "
                                        f"(of the table {table}).\n")
