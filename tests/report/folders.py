"""Run folders made up for the tests of this room: as classifier.py leaves them, of any logits."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from report.read import Group, load_groups

BINARY = ("negative", "positive")


def write_run(path: Path, logits: np.ndarray, labels: np.ndarray, *, texts: list[str] | None = None, seed: int = 1,
              names: tuple[str, ...] | None = None, train_loss: list[float] | None = None, **more) -> Path:
    """Write a finished run with the logits [E, N, K] and return its folder.

    more: `majority`, `tfidf`, `tokens` and `rarest` [N]; `settings`, `identity` and `task`, added to those in run.json.
    """
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    epochs, count, number = logits.shape
    (path / "dev").mkdir(parents=True)
    texts = texts or [f"text number {place} of them" for place in range(count)]
    names = names or (BINARY if number == 2 else tuple(f"label {label}" for label in range(number)))
    write(path / "run.json", {
        "command": ["classifier.py", "--seed", str(seed)], "versions": {"python": "3.11"}, "platform": "Linux",
        "commit": None,
        "settings": {"seed": seed, "select_by": "accuracy", "model": "gpt2", **more.get("settings", {})},
        "task": {"name": "own", "num_labels": number, "label_names": list(names), "spellings": [],
                 **more.get("task", {})},
        "identity": {"mode": "full-model", "seed": seed, "precision": "float32", "backbone": "b" * 64,
                     "engine": {"gpt2": True, "adamw": False}, "texts": {"dev": "d" * 64}, **more.get("identity", {})}})

    # What came of it.
    accuracy = (logits.argmax(axis=2) == labels).mean(axis=1)
    losses = train_loss or np.linspace(0.7, 0.3, epochs).tolist()
    lines(path / "log.jsonl", [{"epoch": epoch + 1, "train_loss": losses[epoch], "train_accuracy": 0.5,
                                "dev_accuracy": accuracy[epoch], "dev_macro_f1": accuracy[epoch]}
                               for epoch in range(epochs)])
    lines(path / "times.jsonl", [{"epoch": epoch + 1, "seconds": 2.0, "saving seconds": 0.5, "examples a second": 10.0,
                                  "peak memory MB": 300 + epoch} for epoch in range(epochs)])
    write(path / "result.json", {"best_epoch": int(accuracy.argmax()) + 1, "test": None})

    # What it says of each text.
    columns = {"majority": np.zeros(count, int), "tfidf": np.zeros(count, int), "tokens": np.arange(count) % 30 + 3,
               "rarest": np.full(count, 9)} | {name: value for name, value in more.items() if np.ndim(value) == 1}
    lines(path / "dev" / "examples.jsonl", [
        {"id": f"id{place}", "text": texts[place], "label": int(labels[place]),
         **{name: int(value[place]) for name, value in columns.items()}} for place in range(count)])
    for epoch in range(epochs):
        save_file({"dev": logits[epoch]}, path / "dev" / f"epoch-{epoch + 1:04}.safetensors")
    return path


def write(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value))


def lines(path: Path, values: list[dict]) -> None:
    """Write values as JSON, a line each."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def change(path: Path, **fields) -> None:
    """Give some keys of a JSON file other values."""
    write(path, json.loads(path.read_text()) | fields)


def change_line(path: Path, number: int, **fields) -> None:
    """Give some keys of a line of a file of JSON lines other values. number: from 0 up."""
    rows = path.read_text().splitlines()
    rows[number] = json.dumps(json.loads(rows[number]) | fields)
    path.write_text("\n".join(rows) + "\n")


def logits_for(answers: np.ndarray, number: int = 2, sure: float = 2.0) -> np.ndarray:
    """Return logits [..., K] that give these answers [...], each with the same confidence."""
    return sure * np.eye(number, dtype=np.float32)[np.asarray(answers)]


def group_of(path: Path, *seeds_answers: np.ndarray, labels: np.ndarray, number: int = 2, **more) -> Group:
    """Write a run for each seed's answers ([N], or [E, N]) and read them as one group."""
    for seed, answers in enumerate(seeds_answers, 1):
        write_run(path / f"seed-{seed}", logits_for(np.atleast_2d(answers), number), labels, seed=seed, **more)
    group, = load_groups([path])
    return group
