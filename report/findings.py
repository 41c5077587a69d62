"""Everything that the page about a group of runs says, as plain values: one field for each of its sections."""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from report.calibration import Calibration, calibration
from report.classes import Classes, classes
from report.curves import Curve, Curves, curves
from report.labels import DataMap, data_map
from report.mistakes import Mistakes, mistakes
from report.pairs import Pairs, pairs
from report.read import Dev, Group, Run
from report.selection import selection
from report.slices import Slices, slices
from report.statistics import Estimate, macro_f1, spread, wilson
from report.verdict import Verdict, Versus, against_each, answers_of, rights_of, verdict

MOST_SHOWN = 50  # texts on which two groups differ


@dataclass(frozen=True)
class Provenance:
    """How one run came about."""

    path: Path
    seed: int
    command: str  # quoted for a shell
    commit: str | None  # "+" at its end: files differed from the commit
    versions: tuple[tuple[str, str], ...]  # (package, version)
    platform: str
    precision: str
    engine: str  # in words: which of engine/'s functions agreed with the student's files and ran
    hashes: tuple[tuple[str, str], ...]  # (what, SHA-256): backbone, tokenizer, texts, the trained weights
    epochs: int
    seconds: float | None  # of training and saving, all epochs; None: times.jsonl does not say
    examples_per_second: float | None  # median over epochs
    peak_memory_mb: float | None
    resumed: int  # so often was the run interrupted and resumed


@dataclass(frozen=True)
class Findings:
    """What is found out about a group of runs. Sections in the order of the page."""

    name: str  # of the group
    task: str
    mode: str
    model: str  # the backbone's name or folder, as the command gave it
    label_names: tuple[str, ...]
    dev: Dev
    verdict: Verdict
    curves: Curves
    classes: Classes
    pairs: Pairs
    slices: Slices
    data_map: DataMap
    calibration: Calibration
    mistakes: Mistakes
    provenance: tuple[Provenance, ...]  # by seed
    notes: tuple[str, ...]  # about the folders: what a reader must know first; mostly empty


@dataclass(frozen=True)
class Row:
    """One group in the table of a comparison."""

    name: str
    task: str
    mode: str
    seeds: tuple[int, ...]
    texts: int
    accuracy: Estimate
    accuracy_sd: float | None
    macro_f1: Estimate
    macro_f1_sd: float | None
    best_epochs: tuple[int, ...]
    seconds: float | None  # mean over seeds
    dev_accuracy: Curve  # to lay over one another
    dev_loss: Curve


@dataclass(frozen=True)
class Differing:
    """A text on which two groups differ."""

    text: int  # position in dev
    label: int
    first: tuple[int, ...]  # the first group's answer for each of its seeds
    second: tuple[int, ...]
    first_right: float  # share of seeds
    second_right: float


@dataclass(frozen=True)
class PairOfGroups:
    """Two groups over the same dev texts. The difference is first - second."""

    first: int  # index in Comparison.rows
    second: int
    versus: Versus  # Holm over all pairs of the comparison
    only_first: int  # texts that more than half of the first's seeds have right, and at most half of the second's
    only_second: int
    differing: tuple[Differing, ...]  # up to 50, clearest first, the two sides in turns


@dataclass(frozen=True)
class Comparison:
    """Several groups side by side."""

    rows: tuple[Row, ...]
    dev: tuple[Dev, ...]  # of each row
    label_names: tuple[tuple[str, ...], ...]  # of each row
    pairs: tuple[PairOfGroups, ...]  # only of groups with the same dev texts
    headline: str
    notes: tuple[str, ...]  # such as: these groups have other dev texts, so that only figures can be compared


def of(group: Group, explain: int = 10, budget_s: float = float("inf")) -> Findings:
    """Find out everything about a group. explain: how many mistakes get their words' shares, which takes the model;
    no new one is begun once budget_s seconds have gone by with them. UserError if the model's folder is damaged."""
    first = group.runs[0]
    return Findings(
        group.name, first.task, first.mode, model_of(first), group.label_names, group.dev, verdict(group),
        curves(group), classes(group), pairs(group), slices(group), data_map(group), calibration(group),
        mistakes(group, explain, budget_s), tuple(provenance(run) for run in group.runs), tuple(notes_of(group)))


def model_of(run: Run) -> str:
    """Return the backbone's name or folder, as the command gave it."""
    settings = run.record["settings"]
    return str(settings.get("model") or ("gpt2-tiny" if settings.get("quick") else "gpt2"))


def notes_of(group: Group) -> Iterator[str]:
    """Yield what a reader must know about the folders before all else."""
    for run in group.runs:
        logged, found = run.epochs[run.best_epoch - 1].dev_accuracy, rights_of([run]).mean()
        if abs(logged - found) > 1e-6:
            yield (f"{run.path}: the log says {logged:.1%} for the best epoch, its logits give {found:.1%}. One of "
                   "them was changed: train again before you believe this page.")
    lengths = {len(run.epochs) for run in group.runs}
    if len(lengths) > 1:
        yield f"The seeds were trained for different numbers of epochs, from {min(lengths)} to {max(lengths)}."


def provenance(run: Run) -> Provenance:
    """Collect how a run came about. run.json may hold anything, so that nothing of it is needed."""
    record, identity = run.record, run.record["identity"]
    epochs = [line for line in run.times if _number(line.get("epoch"))]
    last = {line["epoch"]: line for line in epochs}.values()  # an epoch trained again after a stop counts once
    seconds = [line["seconds"] + (line["saving seconds"] if _number(line.get("saving seconds")) else 0)
               for line in last if _number(line.get("seconds"))]
    speeds, peaks = ([line[name] for line in last if _number(line.get(name))]
                     for name in ("examples a second", "peak memory MB"))
    engine, texts, versions = (_dict(each) for each in (identity.get("engine"), identity.get("texts"),
                                                        record.get("versions")))
    served = [name for name, served in engine.items() if served]
    hashes = {"backbone before training": identity.get("backbone"), "tokenizer": identity.get("tokenizer"),
              **{f"{split} texts": value for split, value in texts.items()},
              **{f"model/{name}": value for name, value in run.model_files.items()}}
    command = record.get("command")
    return Provenance(
        run.path, run.seed, shlex.join(map(str, command)) if isinstance(command, list) else "unknown",
        record["commit"] if isinstance(record.get("commit"), str) else None,
        tuple((str(name), str(version)) for name, version in versions.items()), str(record.get("platform")),
        str(identity.get("precision")),
        f"the engine computed {' and '.join(served)}: it agreed with the student's files before the run" if served
        else "the student's files computed everything",
        tuple((name, value) for name, value in hashes.items() if isinstance(value, str)), len(run.epochs),
        float(sum(seconds)) if seconds else None, float(np.median(speeds)) if speeds else None,
        float(max(peaks)) if peaks else None, sum("resumed at step" in line for line in run.times))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


# ---- comparing groups ------------------------------------------------------------------------------------------------


def compare(groups: Sequence[Group]) -> Comparison:
    """Compare two groups or more: figures of all, and tests between those that have the same dev texts."""
    rows = tuple(row_of(group) for group in groups)
    couples = [(first, second) for first, second in itertools.combinations(range(len(groups)), 2)
               if groups[first].dev.same_texts(groups[second].dev)
               and groups[first].label_names == groups[second].label_names]

    # All tests first: Holm's correction needs to know them all.
    worth = [chosen.in_accuracy if (chosen := selection(group.runs)) else 0.0 for group in groups]
    sides = [(rights_of(groups[first].runs), (groups[second].name, rights_of(groups[second].runs),
                                              worth[first] - worth[second])) for first, second in couples]
    tests = against_each(sides)
    pairs = []
    for (first, second), versus in zip(couples, tests, strict=True):
        texts = differing(groups[first], groups[second])
        pairs.append(PairOfGroups(first, second, versus, sum(text.first_right > text.second_right for text in texts),
                                  sum(text.first_right < text.second_right for text in texts), in_turns(texts)))

    notes = []
    alone = [group.name for place, group in enumerate(groups) if not any(place in couple for couple in couples)]
    if alone:
        notes.append(f"{', '.join(alone)}: no other group has the same dev texts, so that only figures stand side by "
                     "side; a difference may come from the texts.")
    tested = " ".join(f"{rows[pair.first].name} is {pair.versus.sentence}." for pair in pairs)
    return Comparison(rows, tuple(group.dev for group in groups), tuple(group.label_names for group in groups),
                      tuple(pairs), tested or "These groups have different dev texts: nothing can be tested.",
                      tuple(notes))


def row_of(group: Group) -> Row:
    """Return a group's line in the table."""
    runs, rights, found = group.runs, rights_of(group.runs), curves(group)
    macro, macros = macro_f1(group.dev.labels, answers_of(runs), len(group.label_names))
    seconds = [spent for run in runs if (spent := provenance(run).seconds) is not None]
    return Row(group.name, runs[0].task, runs[0].mode, found.seeds, rights.shape[1],
               wilson(rights.mean(), rights.shape[1]), spread(rights.mean(axis=1)), macro, spread(macros),
               found.best_epochs, float(np.mean(seconds)) if seconds else None, found.dev_accuracy, found.dev_loss)


def differing(first: Group, second: Group) -> list[Differing]:
    """Return the texts that more than half of one group's seeds have right, and at most half of the other's."""
    answers = [answers_of(group.runs) for group in (first, second)]
    shares = [(each == first.dev.labels).mean(axis=0) for each in answers]
    texts = np.flatnonzero((shares[0] > 0.5) != (shares[1] > 0.5))
    clearest = texts[np.argsort(-np.abs(shares[0] - shares[1])[texts], kind="stable")]
    return [Differing(text, int(first.dev.labels[text]), *(tuple(each[:, text].tolist()) for each in answers),
                      *(float(each[text]) for each in shares)) for text in clearest.tolist()]


def in_turns(texts: list[Differing]) -> tuple[Differing, ...]:
    """Return up to MOST_SHOWN texts, one that the first group has right, one that the second has, and so on."""
    sides = ([text for text in texts if text.first_right > text.second_right],
             [text for text in texts if text.first_right < text.second_right])
    both = [text for couple in itertools.zip_longest(*sides) for text in couple if text is not None]
    return tuple(both[:MOST_SHOWN])
