"""This project is a contender: put together as finetuning/run.py does, with the engine serving where it agrees."""

import contextlib
import functools
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.workload import Peer, Workload
from classifier import GPT2SentimentClassifier
from data.batching import FeatureDataset, TextDataset, epoch_order
from data.tasks import TASKS, Task
from data.tokenizer import Tokenizer
from finetuning.features import Split, read_splits, with_features
from finetuning.model import Engine, Model, make_model
from finetuning.settings import TINY, Settings
from models.config import GPT2Config
from models.pretrained import OPTIONAL, STATED
from serving import load
from training.evaluate import score
from training.loop import Feed, TrainState, classification, fit
from training.machine import Machine
from training.memory import keep_freed_memory
from training.schedule import make_scheduler


@functools.cache
def engine_for(machine: Machine) -> Engine:
    """Compare the engine with the definition, once in a process."""
    return Engine.choose(Settings(), machine)


def make_model_and_optimizer(settings: Settings, task: Task, machine: Machine,
                             folder: Path) -> tuple[Model, torch.optim.Optimizer]:
    """Make what a run of classifier.py trains, and with what, from the model in a folder."""
    recipe, engine = settings.recipe(task), engine_for(machine)
    torch.manual_seed(settings.seed)
    model = make_model(GPT2SentimentClassifier, settings, task, recipe, folder, engine)
    model.classifier.to(machine.device)
    return model, engine.optimizer(model.parameter_groups(recipe), lr=recipe.lr, weight_decay=settings.weight_decay)


@contextlib.contextmanager
def folder_of(shape: GPT2Config) -> Iterator[Path]:
    """Make a model folder without weights: enough for a random backbone of this shape."""
    stated = {theirs: getattr(shape, ours) for theirs, ours in {**STATED, **OPTIONAL}.items()}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps({"model_type": "gpt2", **stated}))
        yield Path(folder)


class Ours(Peer):
    """The contender: batches of similar length, the engine's forward pass and AdamW, the one loop."""

    def __init__(self, work: Workload) -> None:
        keep_freed_memory()
        super().__init__(work)
        self.machine = Machine.choose(work.device, work.precision)
        settings = Settings(fine_tune_mode=work.mode, random_backbone=True, seed=work.seed)
        with folder_of(work.shape) as folder:
            self.model, self.optimizer = make_model_and_optimizer(settings, work.files, self.machine, folder)

    def training_order(self) -> list[list[int]]:
        """Return the batches of an epoch."""
        return epoch_order(self.data.lengths, self.work.batch_size, self.work.seed, epoch=0)

    def train(self, *batches: list[int]) -> float:
        """Train on these batches and return the mean loss."""
        state, feed = TrainState(), Feed(lambda epoch: batches, self.data.collate)
        fit(self.model.classifier, self.optimizer, feed, classification, state, self.machine, epochs=1)
        return state.loss

    def evaluate(self) -> torch.Tensor:
        """Return the logits of all texts, in file order, from batches as classifier.py makes them."""
        return Split(self.examples, self.data).predict(self.model.classifier, self.machine, "evaluating")

    def features_twice(self) -> dict[str, float]:
        """Return the seconds for making the features of all texts, and for reading them back in a second run."""
        splits, seconds = {"train": Split(self.examples, self.data)}, {}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("made", "reused"):
                start = perf_counter()
                with_features(splits, self.model.gpt, self.model.code, self.machine, Path(folder))
                seconds[name] = perf_counter() - start
        return seconds

    def head_epoch(self, train_texts: int, dev_texts: int) -> None:
        """Train one epoch on as many stored features as texts are given, and predict those of dev."""
        self.model.use_features()
        size, labels = self.work.shape.hidden_size, torch.zeros(train_texts, dtype=torch.int64)
        data, dev = FeatureDataset(torch.randn(train_texts, size), labels), torch.randn(dev_texts, size)
        feed = Feed(lambda epoch: epoch_order(data.lengths, self.work.batch_size, self.work.seed, epoch), data.collate)
        fit(self.model.classifier, self.optimizer, feed, classification, TrainState(), self.machine, epochs=1)
        Split([], FeatureDataset(dev, None)).predict(self.model.classifier, self.machine, "evaluating")


class TinyOnSample:
    """Fine-tunes every weight of gpt2-tiny on the SST sample, in batches of similar length or in random ones."""

    def __init__(self) -> None:
        keep_freed_memory()
        self.task, self.machine = TASKS["sst-sample"], Machine()
        self.splits = read_splits(self.task, Tokenizer.load(TINY), self.task.max_length)

    def error(self, seed: int, bucket: bool, epochs: int) -> float:
        """Return the share of dev that is predicted wrong after `epochs` epochs; no epoch is chosen on dev."""
        settings = Settings(model=str(TINY), fine_tune_mode="full-model", seed=seed)
        recipe = settings.recipe(self.task)
        model, optimizer = make_model_and_optimizer(settings, self.task, self.machine, TINY)
        data, dev = self.splits["train"].dataset, self.splits["dev"]
        feed = Feed(lambda epoch: epoch_order(data.lengths, recipe.batch_size, seed, epoch, bucket), data.collate)
        scheduler = make_scheduler(optimizer, recipe.schedule, recipe.warmup, epochs * len(feed.order(0)))
        fit(model.classifier, optimizer, feed, classification, TrainState(), self.machine, epochs=epochs,
            scheduler=scheduler)
        predicted = dev.predict(model.classifier, self.machine, "dev").argmax(dim=1).tolist()
        return 1 - score(dev.labels, predicted).accuracy


class Serving:
    """A classifier as `serving.load` gives it, and sentences to ask it for."""

    def __init__(self, run: Path, work: Workload) -> None:
        self.predictor = load(run, "cpu")
        self.sentences = itertools.cycle([example.text for example in work.files.read("train")])

    def predict(self, count: int) -> int:
        """Predict the next `count` sentences in one call; return how many answers there are."""
        return len(self.predictor.predict(list(itertools.islice(self.sentences, count)), bar=False))


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
            start = perf_counter()
            feed = Feed(lambda epoch: batches, data.collate)
            fit(model.classifier, optimizer, feed, classification, TrainState(), machine, epochs=1)
            return perf_counter() - start

        batches = epoch_order(data.lengths, batch, 0, epoch=0)
        train(batches[:1])
        return min(train(batches), train(batches))
