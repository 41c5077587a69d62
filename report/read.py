"""Read the folders of finished runs into plain arrays. A folder may come from anybody, so nothing in it is believed."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from common.errors import UserError, one_line, quoted
from report.files import LARGE, SMALL, damaged, is_int, is_number, read_bytes, read_json, read_lines, strings

MOST_EPOCHS, MOST_LABELS = 10_000, 1_000_000
SEEDS = re.compile(r"seed-[0-9]{1,18}")
PREVIOUS = re.compile(r"previous(?:-([0-9]{1,9}))?")


class NotFinished(UserError):
    """The folder is that of a run that has not come to its end."""


class Older(UserError):
    """The run was made by a version that did not keep what a page needs."""


@dataclass(frozen=True)
class Epoch:
    """What log.jsonl says of one epoch."""

    train_loss: float  # mean cross-entropy over the epoch, in nats, while the weights were changing
    train_accuracy: float
    dev_accuracy: float
    dev_macro_f1: float


@dataclass(frozen=True)
class Dev:
    """The texts of the dev set, in order: N of them."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: np.ndarray  # int64 [N], from 0 up
    tokens: np.ndarray  # int64 [N]: length as the model reads it
    rarest: np.ndarray  # int64 [N]: how many training texts hold the text's rarest word; -1: the text has no word
    majority: np.ndarray  # int64 [N]: the label that the majority class gives
    tfidf: np.ndarray  # int64 [N]: the label that TF-IDF + logistic regression gives

    def same_texts(self, other: "Dev") -> bool:
        """Tell whether another dev set has the same texts with the same labels in the same order."""
        return self.texts == other.texts and np.array_equal(self.labels, other.labels)


@dataclass(frozen=True)
class Run:
    """One finished run of one seed."""

    path: Path
    task: str
    mode: str  # full-model or last-linear-layer
    seed: int
    label_names: tuple[str, ...]  # K names
    spellings: tuple[str, ...]  # the labels as the user's own files spell them; empty for the course's files
    select_by: str  # accuracy or macro-f1: what chose the best epoch
    epochs: tuple[Epoch, ...]  # E of them
    best_epoch: int  # counted from 1
    dev: Dev
    logits: np.ndarray  # float32 [E, N, K]: what each epoch's weights give for dev
    test_accuracy: float | None  # of a test file with labels
    record: dict[str, Any]  # run.json: command, versions, platform, commit, settings, task, identity
    times: tuple[dict[str, Any], ...]  # the lines of times.jsonl
    model_files: dict[str, str]  # SHA-256 of the files in model/, by name; empty: the run has no model folder
    before: "Run | None" = None  # the newest finished run in previous/, previous-2/, ...
    no_before: str | None = None  # why there is none although there is such a folder, in a sentence

    @property
    def best_logits(self) -> np.ndarray:
        """The logits float32 [N, K] of the best epoch."""
        return self.logits[self.best_epoch - 1]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, on the same dev texts."""

    name: str  # no two groups of a page have the same
    runs: tuple[Run, ...]  # one or more, by seed

    @property
    def dev(self) -> Dev:
        """The dev set of all of them."""
        return self.runs[0].dev

    @property
    def label_names(self) -> tuple[str, ...]:
        """The K names of the labels."""
        return self.runs[0].label_names


# ---- groups ----------------------------------------------------------------------------------------------------------


def load_groups(paths: Sequence[Path]) -> list[Group]:
    """Read run folders, and folders that hold seed-*/ run folders, in the order given. UserError if one cannot be read.

    Runs whose identity differs in nothing but the seed are one group; a seed that comes twice begins another group.
    Seeds in one folder and runs elsewhere are never one group, so that two such folders can be compared.
    """
    groups: list[tuple[Path, str, list[Run]]] = []  # (where, what makes them one group, its runs)
    for where, path in dict.fromkeys((Path(given), path) for given in paths for path in _run_folders(Path(given))):
        run = load_run(path)
        several = where != path
        alike = json.dumps([several and str(where), _without_seed(run)], sort_keys=True)
        for _, other, runs in groups:
            if other == alike and run.seed not in {each.seed for each in runs} and run.dev.same_texts(runs[0].dev):
                runs.append(run)
                break
        else:
            groups.append((where, alike, [run]))
    names = _names([where for where, _, _ in groups])
    return [Group(name, tuple(sorted(runs, key=lambda run: run.seed)))
            for name, (_, _, runs) in zip(names, groups, strict=True)]


def _run_folders(path: Path) -> list[Path]:
    """Return the run folders that a path stands for: itself, or the seed-*/ in it."""
    if (path / "run.json").exists() or not path.is_dir():
        return [path]
    seeds = [entry for entry in path.iterdir() if SEEDS.fullmatch(entry.name) and entry.is_dir()
             and not entry.is_symlink()]
    return sorted(seeds, key=lambda entry: int(entry.name[5:])) or [path]


def _without_seed(run: Run) -> dict[str, Any]:
    """Return the part of a run's identity that all seeds share."""
    identity = dict(run.record["identity"])
    identity.pop("seed", None)
    if run.record["settings"].get("random_backbone"):
        identity.pop("backbone", None)  # the seed decides it
    return identity | {"labels": run.label_names, "choice": run.select_by}


def _names(paths: Sequence[Path]) -> list[str]:
    """Return short names for some folders, no two alike: as many of a path's last parts as that takes."""
    names: list[str] = []
    for path in paths:
        parts = path.absolute().parts[1:] or (str(path),)
        few = 2 if SEEDS.fullmatch(parts[-1]) or PREVIOUS.fullmatch(parts[-1]) else 1
        others = {other.absolute().parts[1:] for other in paths if other != path}
        while few < len(parts) and any(other[-few:] == parts[-few:] for other in others):
            few += 1
        name = "/".join(parts[-few:])
        alike = sum(name == other.partition(" (")[0] for other in names)
        names.append(f"{name} ({alike + 1})" if alike else name)
    return names


# ---- a run -----------------------------------------------------------------------------------------------------------


def load_run(path: Path, look_back: bool = True) -> Run:
    """Read one run folder. UserError, NotFinished or Older if that cannot be done. look_back: also read `before`."""
    # What was run.
    if not (path / "run.json").exists():
        raise UserError(f"{quoted(path, 200)} is not the folder of a run: it has no run.json{_hint(path)}")
    record = read_json(path / "run.json", dict)
    settings, identity, task = (record.get(key) for key in ("settings", "identity", "task"))
    if not isinstance(settings, dict) or not isinstance(identity, dict):
        damaged(path / "run.json", "it lacks the settings or the identity of the run")
    if not isinstance(task, dict):
        raise UserError(f"{quoted(path, 200)} holds a pretrained language model, not a classifier")
    seed, labels = settings.get("seed"), task.get("num_labels")
    if not is_int(seed, 0, (1 << 64) - 1) or not is_int(labels, 2, MOST_LABELS):
        damaged(path / "run.json", "its seed or its number of labels is not one")
    names, spellings = strings(task.get("label_names")), strings(task.get("spellings"))
    if len(names) not in (0, labels) or len(spellings) not in (0, labels):
        damaged(path / "run.json", f"its label names are not {labels} texts")
    names = names or tuple(map(str, range(labels)))

    # What came of it.
    if not (path / "result.json").exists():
        raise NotFinished(f"the run in {quoted(path, 200)} is not finished: {_finish(record)}")
    result, kept = read_json(path / "result.json", dict), path / "dev"
    if not (kept / "examples.jsonl").exists():
        raise Older(f"the run in {quoted(path, 200)} was made by an older version, which did not keep what a page "
                    "needs\nTrain it again with the same command")
    epochs = _epochs(path / "log.jsonl")
    best = result.get("best_epoch")
    if not is_int(best, 1, len(epochs)):
        damaged(path / "result.json", f"its best epoch is not one of the {len(epochs)} epochs")
    test = result.get("test")
    test = test.get("accuracy") if isinstance(test, dict) else None

    # What it says of each text of dev.
    if kept.is_symlink():
        damaged(kept, "it is a link")
    dev = _examples(kept / "examples.jsonl", labels)
    run = Run(path, str(task.get("name")), str(identity.get("mode")), seed, names, spellings,
              str(settings.get("select_by", "accuracy")), epochs, best, dev,
              _logits(kept, len(epochs), len(dev.texts), labels), test if is_number(test) else None, record,
              _times(path / "times.jsonl"), _model_files(path / "model"))
    return replace(run, **_before(path)) if look_back else run


def _before(path: Path) -> dict[str, Any]:
    """Return the fields `before` and `no_before` of the run in a folder."""
    places = {int(match[1] or 1): entry for entry in path.iterdir()
              if (match := PREVIOUS.fullmatch(entry.name)) and entry.is_dir() and not entry.is_symlink()
              and (entry / "result.json").exists()}
    if not places:
        return {}
    place = places[max(places)]
    try:
        return {"before": load_run(place, look_back=False)}
    except Older:
        return {"no_before": f"the run before ({place.name}/) was made by an older version, which kept no answers"}
    except UserError:
        return {"no_before": f"the run before ({place.name}/) cannot be read"}


def _hint(path: Path) -> str:
    """Name the run folders that lie in a folder that is none."""
    runs = sorted(str(entry) for entry in path.iterdir() if (entry / "run.json").exists()) if path.is_dir() else []
    return f"\nThere are {', '.join(quoted(run, 100) for run in runs[:5])}" if runs else ""


def _finish(record: dict[str, Any]) -> str:
    """Say how a run that was stopped can be brought to its end."""
    words = strings(record.get("command"))
    command = shlex.join([*words, *(() if "--resume" in words else ("--resume",))])
    return f"wait for it, or go on with\n{one_line(command, 900)}" if words else "start it again with --resume"


# ---- its files ------------------------------------------------------------------------------------------------------


def _epochs(path: Path) -> tuple[Epoch, ...]:
    """Return what log.jsonl says, an epoch a line, none missing."""
    lines, fields = read_lines(path, SMALL), ("train_loss", "train_accuracy", "dev_accuracy", "dev_macro_f1")
    if not 1 <= len(lines) <= MOST_EPOCHS or [line.get("epoch") for line in lines] != [*range(1, len(lines) + 1)]:
        damaged(path, "an epoch is missing")
    if not all(is_number(line.get(field)) for line in lines for field in fields):
        damaged(path, "a loss or a score is not a number")
    return tuple(Epoch(*(float(line[field]) for field in fields)) for line in lines)


def _times(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the lines of times.jsonl; none if the file is not there or damaged, as nothing hangs on it."""
    try:
        return tuple(read_lines(path, SMALL))
    except UserError:
        return ()


def _model_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 that serving.json names for each file of the model; none if there is no model."""
    if folder.is_symlink() or not (folder / "serving.json").exists():
        return {}
    files = read_json(folder / "serving.json", dict).get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        damaged(folder / "serving.json", "it does not name the model's files")
    return files


def _examples(path: Path, labels: int) -> Dev:
    """Return the texts of dev with everything that was kept about them."""
    rows = read_lines(path, LARGE)
    numbers = np.zeros((5, len(rows)), dtype=np.int64)
    limits = {"label": labels - 1, "tokens": 1 << 40, "rarest": 1 << 40, "majority": labels - 1, "tfidf": labels - 1}
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        where = f"line {place + 1}: "
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            damaged(path, f"{where}the id or the text is missing")
        if (first := seen.setdefault(row["id"], place)) != place:
            damaged(path, f"{where}the id is that of line {first + 1}, too")
        for field, (name, high) in enumerate(limits.items()):
            value = row.get(name, "")
            if name == "rarest" and value is None:
                value = -1
            elif not is_int(value, 0, high):
                damaged(path, f"{where}{name} is not a whole number from 0 to {high:,}")
            numbers[field, place] = value
    if not rows:
        damaged(path, "it holds no text")
    return Dev(tuple(seen), tuple(row["text"] for row in rows), *numbers)


def _logits(folder: Path, epochs: int, texts: int, labels: int) -> np.ndarray:
    """Return the logits float32 [E, N, K] of all epochs."""
    size = 4 * texts * labels
    if size * epochs > LARGE:
        raise UserError(f"{quoted(folder, 200)} holds {size * epochs / 1e9:.1f} GB of logits, more than a page can "
                        f"be made of ({LARGE / 1e9:.1f} GB)")
    logits = np.empty((epochs, texts, labels), dtype=np.float32)
    for epoch in range(1, epochs + 1):
        path = folder / f"epoch-{epoch:04}.safetensors"
        if not path.exists():
            raise Older(f"{quoted(path, 200)} is missing: an older version trained these epochs, or it was removed\n"
                        "Train again with the same command")
        try:
            found = load(read_bytes(path, size + (1 << 16))).get("dev")
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
            damaged(path, "it is not a safetensors file")
        if found is None or found.dtype != np.float32 or found.shape != (texts, labels):
            damaged(path, f"it does not hold {texts} rows of {labels} logits")
        if not np.isfinite(found).all():
            damaged(path, "a logit is not a number")
        logits[epoch - 1] = found
    return logits
