"""Run every known mistake, alone and in pairs, through the tests with public inputs; write what came back.

These are our own files, thousands of them: they run in this command's worker processes, not in the sandbox.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import io
import itertools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np

from common.cli import progress
from common.files import replacing
from staff.grader import diagnosis
from staff.grader.case import CASES, Request, generator
from staff.grader.diagnosis import PUBLIC, Trace
from staff.grader.grade import HERE, stage
from staff.grader.sandbox import Reply, plain
from staff.mutants.edit import ROOT, Moved, Mutant, Variant, edited, solution
from staff.mutants.running import cases_of, load_cases
from staff.mutants.table import ROOMS

BASES = {"optimizer": ("V2",), "attention": ("V7a",), "layer": ("V11a",), "model": ("V12a",), "head": ()}
"Component -> variants in which the mistakes are made, too: there their numbers are others."

def bases(component: str) -> Iterator[tuple[tuple[Variant, ...], list[Mutant]]]:
    """Yield the solution as it is, and each variant in BASES, with the mistakes that can be made in it."""
    room, texts = ROOMS[component], solution()
    for base in ((), *((variant,) for variant in room.VARIANTS if variant.id in BASES[component])):
        yield base, [mutant for mutant in room.MUTANTS if fits(texts, *base, mutant)]


def fits(texts: dict[str, str], *changes: Mutant | Variant) -> bool:
    """Return whether changes can be made one after another, and make sense together."""
    variants = [change for change in changes if isinstance(change, Variant)]
    if any(change.id in variant.unfit for variant in variants for change in changes):
        return False
    mutants = [change for change in changes if isinstance(change, Mutant)]
    if len({mutant.number for mutant in mutants}) < len(mutants) or len({m.title for m in mutants}) < len(mutants):
        return False  # two forms of one mistake
    try:
        edited(*changes, files=texts)
    except Moved:  # they change the same place
        return False
    return True


def build(path: Path = diagnosis.TABLE) -> dict[str, int]:
    """Write the table of replies; return the number of entries of each component. What is not stale is kept."""
    load_cases()
    texts, keys, kept = solution(), {component: key(component) for component in ROOMS}, {}
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            kept = {name: array for name, array in stored.items()
                    if keys.get(name.partition(".")[0]) == stored.get(f"{name.partition('.')[0]}.key")}
    stale = [component for component in ROOMS if f"{component}.key" not in kept]
    alone = [(component, (*base, mutant), cases_of(component))
             for component in stale for base, known in bases(component) for mutant in known]
    rows = list(run_all(files_of(texts, alone), "mistakes"))
    failed = {changes: [name for name in cases if not row[name].passed]
              for (_, changes, cases), row in zip(alone, rows, strict=True)}

    # Two that fail a test together, with the tests that either fails. Others are found one by one.
    pairs = []
    for component in stale:
        for base, known in bases(component):
            for first, second in itertools.combinations(known, 2):
                both = failed[(*base, first)], failed[(*base, second)]
                if {*both[0]} & {*both[1]} and fits(texts, *base, first, second):
                    pairs.append((component, (*base, first, second), sorted({*both[0], *both[1]})))
    rows += run_all(files_of(texts, pairs), "pairs of mistakes")

    data = dict(kept)
    for component in stale:
        mine = [([change.title for change in changes if isinstance(change, Mutant)], row)
                for (of, changes, _), row in zip(alone + pairs, rows, strict=True) if of == component]
        data |= {f"{component}.key": np.array(keys[component]), **packed(component, mine)}
    file = io.BytesIO()
    np.savez_compressed(file, **data)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(file.getvalue())
    return {component: len(data[f"{component}.entries"]) for component in ROOMS}


def files_of(texts: dict[str, str], work: list) -> list[tuple[str, dict[str, bytes], list[str]]]:
    """Return (component, files, tests) for each (component, changes, tests)."""
    return [(component, edited(*changes, files=texts), cases) for component, changes, cases in work]


def packed(component: str, found: list[tuple[list[str], dict[str, Trace]]]) -> dict[str, np.ndarray]:
    """Return a component's part of the table."""
    cases, titles = cases_of(component), {}
    kept, places, traces = [], [], []
    for names, row in found:
        failed = [case for case in cases if case in row and not row[case].passed]
        if not failed:  # the two undo each other
            continue
        places += [(len(kept), cases.index(case)) for case in failed]
        traces += [row[case] for case in failed]
        kept.append([titles.setdefault(title, len(titles)) for title in names] + [-1] * (2 - len(names)))
    places = np.array(places, np.uint16)
    columns = {"cases": np.array(cases), "titles": np.array(list(titles)), "entries": np.array(kept, np.int16),
               "rows": places[:, 0], "columns": places[:, 1].astype(np.uint8),
               "said": np.array([trace.said for trace in traces], np.uint32),
               "words": np.array([trace.words for trace in traces], np.uint32),
               "sums": np.stack([trace.sums for trace in traces])}
    return {f"{component}.{name}": column for name, column in columns.items()}


def key(component: str) -> str:
    """Return a hash of all that decides a component's replies: the solution's file, the mistakes, and the tests."""
    room = ROOMS[component]
    variants = [variant for variant in room.VARIANTS if variant.id in BASES[component]]
    files = [ROOT / room.MUTANTS[0].file, HERE / "case.py", HERE / "oracles.py",
             *(HERE / folder / f"{component}.py" for folder in ("cases", "probes")),
             *(path for folder in ("all", component) for path in sorted((HERE / "stubs" / folder).rglob("*.py")))]
    code = inspect.getsource(diagnosis.trace) + inspect.getsource(answer)
    digest = hashlib.sha256(f"{room.MUTANTS}{variants}{code}{diagnosis.NUMBERS}".encode())
    for path in files:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_all(work: list[tuple[str, dict[str, bytes], list[str]]], describe: str) -> Iterator[dict[str, Trace]]:
    """Run (component, files, names of tests) of each; yield the traces of each one's tests, by name of the test."""
    if not work:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, start) as pool, progress(len(work), describe, "file") as bar:
        for traces in pool.map(run_one, *zip(*work, strict=True), chunksize=4):
            bar.update()
            yield traces


PROBES: dict[str, ModuleType] = {}
BEFORE: set[str] = set()
"The modules of this worker process before it runs a file."


def start() -> None:
    """Get this worker process ready."""
    import torch

    torch.set_num_threads(1)
    load_cases()
    for path in (HERE / "probes").glob("*.py"):
        spec = importlib.util.spec_from_file_location(f"_probe_{path.stem}", path)
        PROBES[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(PROBES[path.stem])
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "course")]
    BEFORE.update(name for name in sys.modules if name.partition(".")[0] not in STAGED)


def run_one(component: str, files: dict[str, bytes], cases: list[str]) -> dict[str, Trace]:
    """Run some of a component's tests on a file of ours; return name -> trace."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in stage(component, files).items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        traces = {}
        for name in cases:
            request = next(CASES[name].function(generator(PUBLIC, name)))
            traces[name] = diagnosis.trace(CASES[name], answer(request, folder))
    return traces


def answer(request: Request, folder: str) -> Reply:
    """Return what a probe replies on the files in a folder, as from a fresh process: its modules are imported anew."""
    import torch

    for name in sys.modules.keys() - BEFORE:
        if name.partition(".")[0] in STAGED:
            del sys.modules[name]
    torch.default_generator.manual_seed(TORCH_SEED)
    component, _, probe = request.probe.partition(".")
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            inputs = {name: array.copy() for name, array in request.arrays().items()}
            outputs = getattr(PROBES[component], probe)(inputs)
        return Reply({name: np.array(value) for name, value in outputs.items()})
    except Exception as error:
        kind = "not implemented" if isinstance(error, NotImplementedError) else type(error).__name__
        return Reply(None, kind, plain(str(error)[:500]))
    finally:
        torch.set_grad_enabled(True)
        sys.path.remove(folder)


TORCH_SEED = 67280421310721
"The seed with which PyTorch starts."
STAGED = {"config", "utils", "models", "modules", "optimizer", "classifier", "finetuning"}
"What a submission's files import: the files beside them."
