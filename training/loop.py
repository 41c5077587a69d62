"""The one training loop: batches in, optimizer steps out. It knows nothing of models, tasks or files."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cli import progress
from common.errors import UserError
from training.machine import Machine
from training.memory import explain_out_of_memory
from training.parallel.sharding import full_tensor

SMALL_CHANGE = 1e29
"""A billion steps that change no number by more stay within float32, which ends at 3.4e38."""


class Outcome(NamedTuple):
    """The result of an objective on one batch."""

    loss: Tensor  # mean over the rows of the batch: a scalar, differentiable
    correct: Tensor  # number of rows predicted right: an int64 scalar, 0 if the objective has no right and wrong


Objective = Callable[[nn.Module, object], Outcome]


def classification(model: nn.Module, batch) -> Outcome:
    """Compute the cross-entropy of logits [B, num_labels] = model(*batch.inputs) against batch.labels [B]."""
    logits = model(*batch.inputs).float()
    correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
    return Outcome(F.cross_entropy(logits, batch.labels), correct)


def weighted_classification(weights: Tensor) -> Objective:
    """Return `classification` with each row's loss multiplied by weights[label]; weights [num_labels] float32.

    The mean is over the rows, not over their weights, so that a batch in parts has the same gradient as in one.
    """
    def objective(model: nn.Module, batch) -> Outcome:
        logits = model(*batch.inputs).float()
        correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        return Outcome((losses * weights.to(losses.device)[batch.labels]).mean(), correct)

    return objective


def balanced_weights(labels: Sequence[int], num_labels: int) -> Tensor:
    """Return weights [num_labels] with which each label that occurs has the same part in the loss; their mean over the
    rows is 1, and a label that does not occur has weight 0."""
    counts = torch.bincount(torch.tensor(labels), minlength=num_labels).float()
    weights = len(labels) / (counts * (counts > 0).sum())
    return torch.where(counts > 0, weights, torch.zeros(()))


@dataclass
class TrainState:
    """The position of a run. Together with model, optimizer and random generators it is all that resuming needs."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches done in the current epoch
    step: int = 0  # optimizer steps in all
    loss_sum: float = 0.0  # sum of the losses of the rows seen in the current epoch
    correct: int = 0  # rows predicted right in the current epoch
    rows: int = 0  # rows seen in the current epoch

    @property
    def loss(self) -> float:
        """Mean training loss of the current epoch so far."""
        return self.loss_sum / max(self.rows, 1)

    @property
    def accuracy(self) -> float:
        """Training accuracy of the current epoch so far, measured during training, so with dropout."""
        return self.correct / max(self.rows, 1)


class Diverged(UserError):
    """The loss, the gradients, the weights or a model's outputs are no longer finite."""


@dataclass
class Feed:
    """The source of the loop's batches.

    order: epoch -> batches as lists of row numbers; a pure function, so that a resumed run sees the same batches.
    collate: row numbers -> a batch, with len() and .to(device). name_rows: their names, for an error message.
    """

    order: Callable[[int], Sequence[Sequence[int]]]
    collate: Callable[[Sequence[int]], object]
    name_rows: Callable[[Sequence[int]], Sequence[str]] = lambda rows: [f"row {row}" for row in rows]


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, feed: Feed, objective: Objective, state: TrainState,
        machine: Machine, *, epochs: int, scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        accumulate: int = 1, max_grad_norm: float | None = None, after_step: Callable[[], None] = lambda: None,
        after_epoch: Callable[[], None] = lambda: None, describe: str | None = "training",
        beside_bar: Callable[[TrainState], str] = lambda state: f"loss {state.loss:.3f}") -> None:
    """Train from the position in `state` until `epochs` epochs are finished, and keep `state` up to date.

    One batch of the feed is one optimizer step, on the gradient of the mean loss over its rows, however many. With
    `accumulate` it runs in that many parts, one after another: the same gradient up to rounding, in less memory. The
    processes of machine.group share each part, and average their gradients if the group has wrapped the model.

    `after_step` runs after each optimizer step. `after_epoch` runs after an epoch's last step, when state.epoch is one
    higher already but the sums still belong to that epoch. Training can be saved in both and resumed from there.

    `describe` is a word for the progress bar over all epochs, None for no bar; `beside_bar` gives the words beside it.

    Raises OutOfMemory. Raises Diverged if the loss or a gradient is not finite, with the weights of before this step;
    and if the step makes a weight infinite or NaN, before anything can be saved.
    """
    parameters = [p for options in optimizer.param_groups for p in options["params"]]
    optimizer.zero_grad(set_to_none=True)
    first_step = state.step
    with progress(epochs, f"{describe}: ", unit=None, done=state.epoch, silent=describe is None) as bar:
        while state.epoch < epochs:
            # Begin a new epoch, or the rest of an interrupted one.
            if state.batch == 0:
                state.loss_sum, state.correct, state.rows = 0.0, 0, 0
            order = feed.order(state.epoch)
            bar.set_description(f"{describe} {state.epoch + 1}/{epochs}", refresh=False)
            model.train()

            for rows in order[state.batch:]:
                with explain_out_of_memory("training", f"in step {state.step + 1}"):
                    # Compute loss and gradient.
                    todo = parts(rows, min(accumulate, math.ceil(len(rows) / machine.group.size)))
                    loss, correct = backward(model, todo, feed, objective, machine)

                    # Check and clip the gradient.
                    norm = total_norm([numbers(p) for p in parameters if p.grad is not None])
                    require_finite(state.step + 1, feed.name_rows(rows), ("loss", loss), ("gradient's norm", norm))
                    if max_grad_norm is not None:
                        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)

                    # Step.
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    if state.step == first_step or may_overflow(optimizer):
                        require_finite(state.step + 1, feed.name_rows(rows), ("weights' norm", total_norm(parameters)))
                if scheduler is not None:
                    scheduler.step()

                # Count.
                state.batch += 1
                state.step += 1
                state.rows += len(rows)
                state.loss_sum += float(loss) * len(rows)
                state.correct += int(correct)
                bar.set_postfix_str(beside_bar(state), refresh=False)
                bar.update(state.epoch + state.batch / len(order) - bar.n)
                after_step()
            state.epoch, state.batch = state.epoch + 1, 0
            after_epoch()


def backward(model: nn.Module, todo: Sequence[Sequence[int]], feed: Feed, objective: Objective,
             machine: Machine) -> tuple[Tensor, Tensor]:
    """Compute the gradient of the mean loss over the rows of all parts. Returns (that loss, number of correct rows)."""
    group, total = machine.group, sum(map(len, todo))
    loss, correct = 0.0, 0
    for number, part in enumerate(todo, start=1):
        mine, count = group.share(part)
        batch = feed.collate(mine).to(machine.device)
        with nullcontext() if number == len(todo) else group.no_sync(model):
            with machine.autocast():
                outcome = objective(model, batch)
            weight = count / total
            (outcome.loss * (weight * group.size)).backward()
        loss += outcome.loss.detach() * weight
        correct += outcome.correct if count else torch.zeros_like(outcome.correct)
    return group.sum(loss, correct)


def parts(rows: Sequence[int], count: int) -> list[Sequence[int]]:
    """Cut rows into at most `count` consecutive parts, none empty, all of one size but perhaps the last."""
    size = math.ceil(len(rows) / count)
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def numbers(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient; of a sparse one, which lists rows of an embedding, the numbers of these rows."""
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()  # one row for each word, however often it occurs
    return parameter.grad.values()


def may_overflow(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a step can make finite weights infinite or NaN. Only some optimizers know a bound of their steps."""
    bound = getattr(optimizer, "largest_change", lambda: math.inf)()
    return not bound < SMALL_CHANGE


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of all numbers in some tensors, or their parts in all processes: a scalar.

    It is made of the norms of their rows: on a CPU, one thread alone would add up a whole tensor.
    """
    rows = [torch.linalg.vector_norm(tensor.detach(), dim=-1) if tensor.ndim else tensor.detach() for tensor in tensors]
    return full_tensor(nn.utils.get_total_norm(rows))


def require_finite(step: int, names: Sequence[str], *values: tuple[str, Tensor]) -> None:
    """Raise Diverged, which names the step and its examples, if one of the values (what, scalar) is infinite or NaN."""
    for what, value in values:
        if not math.isfinite(value):
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise Diverged(f"the {what} became {float(value)} at step {step} (examples {shown})")
