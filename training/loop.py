"""The one training loop: batches in, optimizer steps out. It knows nothing of models, tasks or files.

The same loop trains a whole model, a linear head on stored features and a language model: it is handed a
module, an objective, an optimizer and an order of batches. What it must remember to go on after an
interruption is TrainState.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.progress import progress
from training.distributed import ALONE, Group
from training.memory import doubled, enough_memory
from training.sharding import whole


class Outcome(NamedTuple):
    """What an objective says of one batch."""

    loss: Tensor
    "Scalar, mean over the rows of the batch; differentiable."
    correct: Tensor
    "Number of rows predicted right, an int64 scalar; zero where that means nothing."


Objective = Callable[[nn.Module, object], Outcome]


def classification(model: nn.Module, batch) -> Outcome:
    """Cross-entropy of model(*batch.inputs) -> logits [B, num_labels] against batch.labels [B]."""
    logits = model(*batch.inputs).float()
    correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
    return Outcome(F.cross_entropy(logits, batch.labels), correct)


@dataclass
class TrainState:
    """Where training stands: with model, optimizer and random generators, all that resuming needs."""

    epoch: int = 0
    "Epochs finished."
    batch: int = 0
    "Batches done in the running epoch."
    step: int = 0
    "Optimizer steps in all."
    loss_sum: float = 0.0
    "Sum over the rows seen in the running epoch."
    correct: int = 0
    "Rows predicted right in the running epoch."
    rows: int = 0
    "Rows seen in the running epoch."

    @property
    def loss(self) -> float:
        """Mean training loss of the running epoch so far."""
        return self.loss_sum / max(self.rows, 1)

    @property
    def accuracy(self) -> float:
        """Training accuracy of the running epoch so far, gathered while training (so with dropout on)."""
        return self.correct / max(self.rows, 1)


class Diverged(UserError):
    """The loss or the gradients are no longer finite."""


@dataclass
class Feed:
    """Where the loop's batches come from."""

    order: Callable[[int], Sequence[Sequence[int]]]
    "Epoch -> batches as lists of row numbers; a pure function, so that a resumed run sees the same batches."
    collate: Callable[[Sequence[int]], object]
    "Row numbers -> a batch, with len() and .to(device)."
    name_rows: Callable[[Sequence[int]], Sequence[str]] = lambda rows: [f"row {row}" for row in rows]
    "Row numbers -> what a person calls these examples, for an error message."
    lighter: Sequence[str | None] = ()
    "What makes a step need less memory, besides --accumulate, for an error message: see training.memory."


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    objective: Objective,
    state: TrainState,
    *,
    epochs: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    accumulate: int = 1,
    max_grad_norm: float | None = None,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    group: Group = ALONE,
    after_step: Callable[[], None] = lambda: None,
    after_epoch: Callable[[], None] = lambda: None,
    describe: str = "training",
) -> None:
    """Train until `epochs` epochs are finished, starting from wherever `state` stands; `state` is kept up to
    date.

    One batch of the feed is one optimizer step, on the gradient of the mean loss over its rows, whatever
    their number: a short last batch counts by its own length. With `accumulate` k the batch is run in k parts,
    one after another: the same gradient up to rounding, in less memory. The processes of a `group` share each
    part out among them, and average their gradients if the model is wrapped by the group.

    `after_step` runs after each optimizer step; `after_epoch` when an epoch's last step is done and
    state.epoch has been counted up, while the running sums still speak of that epoch. Training may be saved
    in both and resumed from there. Raises Diverged before a loss or gradient that is not finite could reach
    the weights, and OutOfMemory where a step needs more memory than there is.
    """
    parameters = [p for options in optimizer.param_groups for p in options["params"]]
    optimizer.zero_grad(set_to_none=True)
    while state.epoch < epochs:
        if state.batch == 0:
            state.loss_sum, state.correct, state.rows = 0.0, 0, 0
        order = feed.order(state.epoch)
        bar = progress(len(order), f"{describe} {state.epoch + 1}/{epochs}", "batch")
        bar.update(state.batch)
        model.train()
        for rows in order[state.batch:]:
            most = math.ceil(len(rows) / group.size)
            with enough_memory(f"in step {state.step + 1}", doubled("--accumulate", accumulate, most), *feed.lighter):
                todo = parts(rows, min(accumulate, most))
                loss, correct = backward(model, todo, feed, objective, device, autocast, group)
                norm = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
                if not math.isfinite(loss) or not math.isfinite(norm):
                    names = feed.name_rows(rows)
                    raise Diverged(explain_divergence(state.step + 1, float(loss), float(norm), names))
                if max_grad_norm is not None:
                    nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if scheduler is not None:
                scheduler.step()
            state.batch += 1
            state.step += 1
            state.rows += len(rows)
            state.loss_sum += float(loss) * len(rows)
            state.correct += int(correct)
            bar.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
            bar.update()
            after_step()
        bar.close()
        state.epoch, state.batch = state.epoch + 1, 0
        after_epoch()


def backward(model: nn.Module, todo: Sequence[Sequence[int]], feed: Feed, objective: Objective,
             device: torch.device | str, autocast: Callable[[], AbstractContextManager],
             group: Group) -> tuple[Tensor, Tensor]:
    """Add up the gradient of the mean loss over the rows of all parts; returns that loss and the correct rows."""
    total = sum(map(len, todo))
    loss, correct = 0.0, 0
    for number, part in enumerate(todo, start=1):
        mine, count = group.share(part)
        batch = feed.collate(mine).to(device)
        with nullcontext() if number == len(todo) else group.no_sync(model):
            with autocast():
                outcome = objective(model, batch)
            weight = count / total
            (outcome.loss * (weight * group.size)).backward()
        loss += outcome.loss.detach() * weight
        correct += outcome.correct if count else torch.zeros_like(outcome.correct)
    return group.sum(loss, correct)


def parts(rows: Sequence[int], count: int) -> list[Sequence[int]]:
    """Cut rows into at most `count` consecutive parts of nearly equal size, none empty."""
    size = math.ceil(len(rows) / count)
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def explain_divergence(step: int, loss: float, norm: float, names: Sequence[str]) -> str:
    """The message of Diverged: which step, which examples, and what usually causes it."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {norm}"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (f"{what} at step {step} (examples {shown}); the weights before it are kept.\n"
            "Usual causes: a learning rate that is too high (lower --lr, add --warmup or --max_grad_norm 1), "
            "or damaged weights")
