"""Name the mistake in a submission by what its tests reply: it does what a known mistake does. NumPy only.

Every known mistake (staff/mutants/), alone and in pairs, has gone through the same tests with the same public inputs.
What came back is in mistakes.npz; `./setup.sh -m staff.mutants replies` writes it. A submission that fails the same
tests, with the same numbers in their replies, has the same mistake, however it is written.
"""

import functools
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from staff.grader.case import CASES, Case, Wrong, generator
from staff.grader.sandbox import FAILURES, Reply

PUBLIC = b"public"
TABLE = Path(__file__).resolve().parent / "mistakes.npz"
NUMBERS = 4
"A reply is remembered as so many sums of its numbers, each with random weights."
TOLERANCE = 2e-5
"Of these sums, as a share of the numbers' size: rounding gives 1e-6."
SHOWN = 3
"More mistakes than this that fit equally well are no diagnosis."
FREE = {"head"}
"Parts whose numbers are the student's own (their weights are drawn in __init__): what a test says is compared as well."


@dataclass(frozen=True)
class Trace:
    """What is remembered of a reply to one test."""

    passed: bool
    said: int = 0  # a hash of the error, or of the arrays' names and shapes and of where they are not finite
    words: int = 0  # a hash of what the test said of it, without its numbers
    sums: np.ndarray = field(default_factory=lambda: np.zeros(NUMBERS, np.float32))


@dataclass(frozen=True)
class Diagnosis:
    """Which known mistakes fit: one group for each mistake in the file, its titles the ones that fit equally well."""

    mistakes: tuple[tuple[str, ...], ...] = ()
    rest: bool = False  # some tests fail in a way that these mistakes do not explain

    def __str__(self) -> str:
        if not self.mistakes:
            return "no known mistake" if self.rest else ""
        groups = [group[0] if len(group) == 1 else "one of these: " + "; or ".join(group) for group in self.mistakes]
        return "; and ".join([*groups, *(["something that is no known mistake"] if self.rest else [])])


def diagnose(component: str, replies: Mapping[str, Reply], table: "Table | None" = None) -> str:
    """Return the likely mistake, from replies to a component's tests (name -> reply) on public inputs.

    "" where all tests pass, "no known mistake" where nothing fits.
    """
    traces = {name: trace(CASES[name], reply) for name, reply in replies.items() if told(reply)}
    return str((table or read_table()).find(component, traces))


def told(reply: Reply) -> bool:
    """Return whether a reply says how the code behaves: not that of an empty method, nor of a test that did not end."""
    return reply.arrays is not None or reply.error not in {"not implemented", *FAILURES}


def trace(case: Case, reply: Reply) -> Trace:
    """Return what to remember of a reply to a test with public inputs."""
    if reply.arrays is None:
        # The name in an UnboundLocalError is the student's own; a long number is an address.
        message = "" if reply.error == "UnboundLocalError" else re.sub(r"\b(0x)?[0-9a-f]{8,}\b", "#", reply.message)
        said = crc(reply.error, message)
        return Trace(False, said, said)
    test = case.function(generator(PUBLIC, case.name))
    next(test)
    try:
        test.send(reply.arrays)
    except StopIteration:
        return Trace(True)
    except Wrong as wrong:
        words = re.sub(r"-?\d[\d.e+-]*|\binf\b|\bnan\b", "#", wrong.measured)
    sums, shapes = np.zeros(NUMBERS), []
    for name, array in sorted(reply.arrays.items()):
        if array.dtype.kind not in "fiub":
            shapes += [name, str(array.dtype), str(array.tolist())]
            continue
        with np.errstate(all="ignore"):
            values = array.astype(np.float64).ravel()
        finite = np.isfinite(values)
        shapes += [name, array.dtype.str, str(array.shape), "" if finite.all() else finite.tobytes().hex()]
        weights = np.random.default_rng(crc(name)).normal(size=(NUMBERS, values.size)) / max(values.size, 1) ** 0.5
        sums += weights @ np.where(finite, values, 0.0).clip(-1e9, 1e9)
    return Trace(False, crc(*shapes), crc(words), sums.astype(np.float32))


def crc(*texts: str) -> int:
    """Return a hash of texts, in 32 bits, the same everywhere."""
    return zlib.crc32("\0".join(texts).encode("utf-8", "replace"))


@dataclass(frozen=True)
class Known:
    """The known mistakes of one component: E entries, each one mistake or two, and F tests."""

    cases: list[str]  # F
    titles: np.ndarray  # [E, 2] of text; the second is empty for one mistake
    failed: np.ndarray  # [E, F] bool
    said: np.ndarray  # [E, F] uint32
    words: np.ndarray  # [E, F] uint32
    sums: np.ndarray  # [E, F, NUMBERS] float32

    def find(self, traces: Mapping[str, Trace]) -> Diagnosis:
        """Return the mistakes that give these traces (name of a test -> trace)."""
        columns = [number for number, name in enumerate(self.cases) if name in traces]
        seen = [traces[self.cases[number]] for number in columns]
        failed = np.array([not trace.passed for trace in seen], bool)
        if not failed.any():
            return Diagnosis()
        mine = self.failed[:, columns]
        same = mine & self.same(columns, seen)
        alike = mine & (self.words[:, columns] == [trace.words for trace in seen])

        # Mistakes that fail the same tests with the same numbers; one mistake is likelier than two.
        pattern = (mine == failed).all(axis=1)
        exact = pattern & (same | ~failed).all(axis=1)
        single = self.titles[:, 1] == ""
        for fits in (exact & single, exact & ~single):
            if fits.any():
                return self.name(fits)
        if FREE & {name.partition(".")[0] for name in self.cases}:
            for fits in (pattern & (alike | ~failed).all(axis=1) & single,):
                if fits.any():
                    return self.name(fits)
            same |= alike
        return self.compose(failed, mine, same, single)

    def same(self, columns: list[int], seen: list[Trace]) -> np.ndarray:
        """Return whether each entry's reply to each of some tests is that of a submission: [E, len(columns)]."""
        sums = np.stack([trace.sums for trace in seen])
        size = np.maximum(np.abs(sums).max(axis=1), 0.1)
        near = np.abs(self.sums[:, columns] - sums).max(axis=2) <= TOLERANCE * size
        return near & (self.said[:, columns] == np.array([trace.said for trace in seen], np.uint32))

    def name(self, fits: np.ndarray) -> Diagnosis:
        """Return the diagnosis that some entries fit equally well."""
        pairs = list(dict.fromkeys(map(tuple, self.titles[fits])))
        groups = [tuple(dict.fromkeys(pair[which] for pair in pairs)) for which in (0, 1)]
        groups = tuple(group for group in groups if group != ("",))
        return Diagnosis(groups) if all(len(group) <= SHOWN for group in groups) else Diagnosis(rest=True)

    def compose(self, failed: np.ndarray, mine: np.ndarray, same: np.ndarray, single: np.ndarray) -> Diagnosis:
        """Return mistakes each of which explains a part of the failed tests, with all the tests that it fails alone."""
        whole = single & (same | ~mine).all(axis=1) & mine.any(axis=1)
        groups, left = [], failed.copy()
        while left.any() and len(groups) < 2:
            explains = mine & left & whole[:, None]
            most = explains[explains.sum(axis=1).argmax()]
            found = self.name((explains == most).all(axis=1))
            if not most.any() or not found.mistakes:
                break
            groups += found.mistakes
            left &= ~most
        return Diagnosis(tuple(groups), bool(left.any()))


@dataclass(frozen=True)
class Table:
    """All that is known. `keys`: for each component, a hash of the solution, mistakes and tests that it comes from."""

    keys: dict[str, str]
    components: dict[str, Known]

    def find(self, component: str, traces: Mapping[str, Trace]) -> Diagnosis:
        """Return the mistakes of a component that give these traces."""
        return self.components[component].find(traces)


@functools.cache
def read_table(path: Path = TABLE) -> Table:
    """Read mistakes.npz."""
    with np.load(path, allow_pickle=False) as stored:
        data = dict(stored)
    keys = {name.partition(".")[0]: str(data[name]) for name in data if name.endswith(".key")}
    components = {}
    for component in keys:
        part = {name.partition(".")[2]: array for name, array in data.items() if name.startswith(f"{component}.")}
        cases, rows, columns = part["cases"].tolist(), part["rows"], part["columns"]
        shape = len(part["entries"]), len(cases)
        failed, said, words = np.zeros(shape, bool), np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
        sums = np.zeros((*shape, NUMBERS), np.float32)
        failed[rows, columns] = True
        for array, name in ((said, "said"), (words, "words"), (sums, "sums")):
            array[rows, columns] = part[name]
        titles = np.append(part["titles"], "")[part["entries"]]
        components[component] = Known(cases, titles, failed, said, words, sums)
    return Table(keys, components)
