"""What a run tells of its epochs while it trains: lines, the words beside the bar, and events for TensorBoard."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import open_regular
from common.terminal import on_terminal, say, spark_line
from training.loop import TrainState


class Epochs:
    """Tells of each epoch. On a terminal, where a bar moves, only an epoch better than all before gets a line."""

    def __init__(self, total: int, select_by: str) -> None:
        """total: epochs of the run. select_by: accuracy or macro-f1, which chooses the best epoch."""
        self.total, self.by = total, "dev_accuracy" if select_by == "accuracy" else "dev_macro_f1"
        self.best: float | None = None  # score of the best epoch so far
        self.last: float | None = None

    def score(self, record: dict[str, Any]) -> float:
        """Return the score of an epoch that decides which one is the best."""
        return record[self.by]

    def tell(self, record: dict[str, Any]) -> None:
        """Say how an epoch went. record: its line of log.jsonl."""
        self.last = self.score(record)
        better = self.best is None or self.last > self.best
        self.best = self.last if better else self.best
        if better or not on_terminal():
            say(f"epoch {record['epoch']}/{self.total}: "
                f"train loss {record['train_loss']:.3f}, accuracy {record['train_accuracy']:.3f}; "
                f"dev accuracy {record['dev_accuracy']:.3f}, F1 {record['dev_macro_f1']:.3f}",
                style="good" if better and on_terminal() else "")

    def beside_bar(self, state: TrainState) -> str:
        """Return the words beside the bar: the loss so far, and dev's score of the last epoch and of the best one."""
        words = [f"loss {state.loss:.3f}"]
        if self.best is not None:
            last = "" if self.last is None else f" {self.last:.3f}"
            words.append(f"dev{' F1' * (self.by == 'dev_macro_f1')}{last} (best {self.best:.3f})")
        return ", ".join(words)


def say_curve(log: Path) -> None:
    """Say how dev accuracy went over the epochs in a log.jsonl, as a line of little bars; nothing of one epoch."""
    with open_regular(log, "rb", follow=False) as file:
        values = [json.loads(line)["dev_accuracy"] for line in file]
    if len(values) > 1:
        say(f"dev accuracy {spark_line(values)} {min(values):.3f} to {max(values):.3f}, {len(values)} epochs")


@contextlib.contextmanager
def events(folder: Path | None, finished: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that writes an epoch's record into `folder` as events for TensorBoard; None: writes nothing.

    finished: epochs that are done; of an interrupted run, events of later ones are void from now on.
    """
    if folder is None:
        yield lambda record: None
        return
    from torch.utils.tensorboard import SummaryWriter  # late: it takes a second, and a package of its own

    with contextlib.ExitStack() as stack:
        def write(record: dict[str, Any]) -> None:
            for name in ("train_loss", "train_accuracy", "dev_accuracy", "dev_macro_f1"):
                writer.add_scalar(name, record[name], record["epoch"])
            writer.flush()

        try:
            writer = stack.enter_context(contextlib.closing(SummaryWriter(str(folder), purge_step=finished + 1)))
            yield write
        except OSError as error:
            raise UserError(f"cannot write events into {folder}: {error.strerror or error}") from error
