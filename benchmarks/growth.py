"""How time grows: with the number of texts, their length, the batch, the model's width and depth."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.arena import Contender
from benchmarks.results import Result

AXES: dict[str, tuple[int, ...]] = {
    "texts": (64, 128, 256, 512, 1024),
    "length": (8, 16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "width": (64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 16),
}
"""What is varied, each with the others left as in Size."""


@dataclass(frozen=True)
class Size:
    """The case from which each axis departs."""

    texts: int = 64
    length: int = 32
    batch: int = 8
    width: int = 128
    depth: int = 2


class Growth:
    """Times one training epoch of our loop at any size."""

    def epoch(self, size: Size) -> float:
        """Seconds for one epoch, the better of two, once data, model and optimizer are there and one step is done."""
        from classifier import GPT2SentimentClassifier, HeadConfig
        from data.batching import TextDataset, epoch_order
        from models.config import GPT2Config
        from models.gpt2 import GPT2Model
        from optimizer import AdamW
        from training.allocator import keep_freed_memory
        from training.loop import Feed, TrainState, classification, fit

        keep_freed_memory()
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=1000, hidden_size=size.width, num_hidden_layers=size.depth,
                            num_attention_heads=size.width // 32)
        head = HeadConfig(2, size.width, 0.3, "full-model")
        model = GPT2SentimentClassifier(head, GPT2Model(config))
        optimizer = AdamW(model.parameters(), lr=1e-5)
        ids = torch.randint(0, 1000, (size.texts, size.length)).tolist()
        data = TextDataset(ids, [0] * size.texts, 0)
        feed = Feed(lambda epoch: epoch_order(data.lengths, size.batch, 0, epoch), data.collate)
        one_step = Feed(lambda epoch: feed.order(epoch)[:1], data.collate)
        fit(model, optimizer, one_step, classification, TrainState(), epochs=1)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            fit(model, optimizer, feed, classification, TrainState(), epochs=1)
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def time_growth(threads: int) -> Iterator[Result]:
    """One result for each point of each axis."""
    with Contender("growth", threads, Growth) as contender:
        for axis, values in AXES.items():
            for value in values:
                seconds = contender.do("epoch", Size(**{axis: value}))[1]
                yield Result(f"growth, {axis}", str(value), (seconds,), note="one epoch of 64 texts or as varied")


def curves(results: list[Result]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Axis -> (values, seconds), from the results of time_growth."""
    found = {}
    for axis in AXES:
        points = [(int(r.contender), r.costs[0]) for r in results if r.row == f"growth, {axis}"]
        if points:
            found[axis] = tuple(np.array(points).T)
    return found


def exponents(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Between neighbouring points, the power of the axis that time grows with: 1 is linear."""
    return np.diff(np.log(seconds)) / np.diff(np.log(values))


def plot(results: list[Result], path: Path) -> None:
    """Log-log, one panel an axis, with a line of slope 1 through the last point where time should grow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = curves(results)
    figure, panels = pyplot.subplots(1, len(found), figsize=(3.2 * len(found), 3.2), squeeze=False,
                                     layout="constrained")
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
    pyplot.close(figure)
