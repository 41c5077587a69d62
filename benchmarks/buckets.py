"""Whether batches of like length change what is learned: gpt2-tiny on the SST sample, over several seeds, both ways."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.arena import Contender
from benchmarks.results import Result
from classifier import GPT2SentimentClassifier, HeadConfig
from data.batching import epoch_order
from data.tasks import TASKS, recipe
from data.tokenizer import Tokenizer
from models.last_token import LastTokenGPT2
from optimizer import AdamW
from training.allocator import keep_freed_memory
from training.device import Machine
from training.evaluate import score
from training.loop import Feed, TrainState, classification, fit
from training.schedule import make_scheduler
from training.seeding import seed_everything
from training.splits import read_splits

TINY = Path(__file__).resolve().parent.parent / "models" / "gpt2-tiny"
ORDERS = {"bucketed": True, "random order": False}


class Student:
    """Fine-tunes gpt2-tiny on one task, every weight of it."""

    def __init__(self, task: str = "sst-sample", backbone: Path = TINY) -> None:
        keep_freed_memory()
        self.task, self.backbone = TASKS[task], backbone
        self.recipe = recipe(self.task, "full-model", tiny=True)
        self.splits = read_splits(self.task, Tokenizer.load(backbone), self.task.max_length)

    def error(self, seed: int, bucket: bool, epochs: int) -> float:
        """The share of dev that is predicted wrong after `epochs` epochs; no epoch is chosen on dev."""
        seed_everything(seed)
        machine = Machine.choose("cpu", "float32")
        gpt = LastTokenGPT2.from_pretrained(str(self.backbone))
        head = HeadConfig(self.task.num_labels, gpt.config.hidden_size, self.recipe.dropout, "full-model")
        model = GPT2SentimentClassifier(head, gpt)
        optimizer = AdamW(model.parameters(), lr=self.recipe.lr)
        data, dev, size = self.splits["train"].dataset, self.splits["dev"], self.recipe.batch_size
        feed = Feed(lambda epoch: epoch_order(data.lengths, size, seed, epoch, bucket), data.collate)
        scheduler = make_scheduler(optimizer, self.recipe.schedule, self.recipe.warmup, epochs * len(feed.order(0)))
        fit(model, optimizer, feed, classification, TrainState(), epochs=epochs, scheduler=scheduler,
            **machine.keywords)
        predicted = dev.predict(model, machine, "dev").argmax(dim=1).tolist()
        return 1 - score(dev.labels, predicted).accuracy


def compare_orders(threads: int, seeds: int, epochs: int) -> Iterator[Result]:
    """One result for each way of making batches, a figure for each seed."""
    with Contender("buckets", threads, Student) as student:
        errors = {name: [] for name in ORDERS}
        for seed in range(seeds):
            for name, bucket in ORDERS.items():
                errors[name].append(student.do("error", seed, bucket, epochs)[1])
    for name, values in errors.items():
        yield Result("dev error, buckets", name, tuple(values), "share", f"{epochs} epochs, {seeds} seeds")
