"""Time grows with the number of texts, their length, the batch, the model's width and depth: how, is measured here."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.contenders import Contender
from benchmarks.ours import folder_of, make_model_and_optimizer
from benchmarks.results import Result
from data.batching import TextDataset, epoch_order
from data.tasks import TASKS
from finetuning.settings import Settings
from models.config import GPT2Config
from training.loop import Feed, TrainState, classification, fit
from training.machine import Machine
from training.memory import keep_freed_memory

AXES: dict[str, tuple[int, ...]] = {
    "texts": (64, 128, 256, 512, 1024),
    "length": (8, 16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "width": (64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 16),
}
"""What is varied, one axis at a time."""
USUAL = {"texts": 64, "length": 32, "batch": 8, "width": 128, "depth": 2}
"""What the other axes have meanwhile."""


class Growth:
    """Times one training epoch of our loop at any size."""

    def epoch(self, texts: int, length: int, batch: int, width: int, depth: int) -> float:
        """Return the seconds of one epoch, the better of two, once data, model and optimizer are there and warm."""
        keep_freed_memory()
        machine, settings = Machine(), Settings(fine_tune_mode="full-model", random_backbone=True, seed=0)
        shape = GPT2Config(vocab_size=1000, hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 32)
        with folder_of(shape) as folder:
            model, optimizer = make_model_and_optimizer(settings, TASKS["cfimdb"], machine, folder)
        data = TextDataset(torch.randint(0, 1000, (texts, length)).tolist(), [0] * texts, 0)

        def train(batches: list[list[int]]) -> float:
            start = time.perf_counter()
            feed = Feed(lambda epoch: batches, data.collate)
            fit(model.classifier, optimizer, feed, classification, TrainState(), machine, epochs=1)
            return time.perf_counter() - start

        batches = epoch_order(data.lengths, batch, 0, epoch=0)
        train(batches[:1])
        return min(train(batches), train(batches))


def time_growth(threads: int) -> Iterator[Result]:
    """Measure each point of each axis: one result each."""
    with Contender("growth", threads, Growth) as contender:
        for axis, values in AXES.items():
            for value in values:
                seconds = contender.do("epoch", *(USUAL | {axis: value}).values())[1]
                yield Result(f"growth, {axis}", str(value), (seconds,), note="one epoch of 64 texts or as varied")


def curves(results: list[Result]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return axis -> (values, seconds), from the results of time_growth."""
    found = {}
    for axis in AXES:
        points = [(int(r.contender), r.costs[0]) for r in results if r.row == f"growth, {axis}"]
        if points:
            found[axis] = tuple(np.array(points).T)
    return found


def exponents(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the power of the axis that time grows with between neighbouring points: 1 is linear."""
    return np.diff(np.log(seconds)) / np.diff(np.log(values))


def plot(results: list[Result], path: Path) -> None:
    """Draw a panel for each axis, log-log, with a line of slope 1 through the last point where time should grow."""
    from matplotlib.figure import Figure  # late: it takes a second

    found = curves(results)
    figure = Figure(figsize=(3.2 * len(found), 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)
    for panel, (axis, (values, seconds)) in zip(panels[0], found.items(), strict=True):
        panel.loglog(values, seconds, "o-", label="measured")
        if axis != "batch":  # an epoch has as many texts in larger batches, and fewer steps
            panel.loglog(values, seconds[-1] * values / values[-1], "--", color="gray", label="linear")
        panel.set_xticks(values, [f"{value:.0f}" for value in values])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(axis)
        panel.set_title(f"steepest: {axis}^{exponents(values, seconds).max():.2f}")
    panels[0][0].set_ylabel("seconds an epoch")
    panels[0][0].legend()
    figure.savefig(path, dpi=120)
