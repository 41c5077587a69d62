"""This project as a contender: the classifier's own parts, put together as classifier.py does."""

import tempfile
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.workload import Peer, Workload
from classifier import GPT2SentimentClassifier, HeadConfig
from data.batching import FeatureDataset, epoch_order
from models.last_token import LastTokenGPT2
from optimizer import AdamW
from training.allocator import keep_freed_memory
from training.device import Machine
from training.loop import Feed, TrainState, classification, fit
from training.splits import Split, with_features


class Ours(Peer):
    """Buckets by length, our AdamW, the one loop."""

    def __init__(self, work: Workload) -> None:
        keep_freed_memory()
        torch.manual_seed(work.seed)
        self.work = work
        self.examples, self.data = work.dataset()
        self.machine = Machine.choose(work.device, work.precision)
        config = HeadConfig(work.files.num_labels, work.shape.hidden_size, 0.3, work.mode)
        self.model = GPT2SentimentClassifier(config, LastTokenGPT2(work.shape)).to(self.machine.device)
        self.optimizer = AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)

    def training_order(self) -> list[list[int]]:
        """The batches of an epoch."""
        return epoch_order(self.data.lengths, self.work.batch_size, self.work.seed, epoch=0)

    def train(self, *batches: list[int]) -> float:
        """Train on these batches; the mean loss."""
        state = TrainState()
        fit(self.model, self.optimizer, Feed(lambda epoch: batches, self.data.collate), classification, state, epochs=1,
            **self.machine.keywords)
        return state.loss

    def evaluate(self) -> torch.Tensor:
        """The logits of all texts, in batches as classifier.py makes them."""
        return Split(self.examples, self.data).predict(self.model, self.machine, "evaluating")

    def features_twice(self) -> dict[str, float]:
        """Seconds for making the features of all texts, and for reading them back in a second run."""
        splits = {"train": Split(self.examples, self.data)}
        with tempfile.TemporaryDirectory() as folder:
            seconds = {}
            for name in ("made", "reused"):
                start = perf_counter()
                with_features(splits, self.model.gpt, self.machine, Path(folder))
                seconds[name] = perf_counter() - start
        return seconds

    def head_epoch(self, train_texts: int, dev_texts: int) -> None:
        """One epoch of the head on as many stored features as texts are given, and its score on dev."""
        size = self.work.shape.hidden_size
        labels = torch.zeros(train_texts, dtype=torch.int64)
        data = FeatureDataset(torch.randn(train_texts, size), labels)
        dev = FeatureDataset(torch.randn(dev_texts, size), None)
        feed = Feed(lambda epoch: epoch_order(data.lengths, self.work.batch_size, self.work.seed, epoch), data.collate)
        fit(self.model.head, self.optimizer, feed, classification, TrainState(), epochs=1)
        Split([], dev).predict(self.model.head, self.machine, "evaluating")

