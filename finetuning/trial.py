"""What can be known before training: the memory it needs, the time of an epoch, and a learning rate that would do."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cli import progress
from common.errors import UserError
from common.files import make_folder, replacing
from common.terminal import say
from finetuning.model import Model
from training.loop import Diverged, Feed, Objective, TrainState, fit
from training.machine import Machine

STEPS, LOW, HIGH = 100, 1e-7, 1.0
"""The range test: so many steps, at rates from LOW to HIGH, each higher than the last by the same factor."""
FIRST, SMOOTH, WORSE = 10, 0.9, 4.0
"""Losses at rates too low to matter; weight of the losses before in the running mean; the test ends when that is so
many times its least value."""
WARM_UP, TIMED, LONG = 2, 10, 10.0
"""Steps before the clock starts; steps that are timed; an epoch shorter than so many seconds is not announced."""
PEAK, PROGRAM = 2.5, 325e6
"""What training holds at its peak, as a multiple of what a forward pass without dropout keeps: dropout's masks, the
gradients on their way back, what the allocator cannot reuse. Bytes of Python and PyTorch. Measured: gpt2-tiny, CPU."""
FORWARD_FLOATS = 16
"""Floats a token and number of its vector that a forward pass without gradients holds at once, about."""


class Enough(Exception):
    """A trial has seen what it wanted to see."""


@dataclass
class Trial:
    """A model with everything that trains it, for some steps after which it is of no further use."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    feed: Feed
    objective: Objective
    machine: Machine
    accumulate: int = 1
    max_grad_norm: float | None = None

    def run(self, steps: int, after_step: Callable[[TrainState], None] = lambda state: None) -> None:
        """Take some steps. after_step may raise Enough to end it."""
        state, bar = TrainState(), progress(steps, "trying", "step")

        def stepped() -> None:
            after_step(state)
            bar.update()
            if state.step >= steps:
                raise Enough

        with contextlib.closing(bar), contextlib.suppress(Enough):
            fit(self.model, self.optimizer, self.feed, self.objective, state, self.machine, epochs=steps,
                accumulate=self.accumulate, max_grad_norm=self.max_grad_norm, after_step=stepped, describe=None)


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory(model: Model, batch: object, rows: int, objective: Objective, machine: Machine) -> str:
    """Say how much memory training takes, from the longest text in a batch of one, which runs once on the CPU.

    rows: how many such texts a step has at once, in this process. The model is on the CPU still; PyTorch's generator
    and the gradients stay as they are.
    """
    tensors = list(model.classifier.parameters())
    weights = sum(tensor.numel() for tensor in tensors)
    trained = sum(tensor.numel() for tensor in tensors if tensor.requires_grad)
    length = batch.inputs[0].shape[1]
    if model.features_will_do:  # the backbone predicts, once; the head's own activations are nothing beside that
        width = model.gpt.word_embedding.weight.shape[1]
        activations = max(length, 1024 if machine.device.type == "cpu" else 32 * length) * width * FORWARD_FLOATS * 4
        what = f"texts of up to {length} tokens"
    else:
        activations = PEAK * rows * kept_for_backward(model.classifier, batch, objective, machine)
        what = f"{rows} texts of {length} tokens"
    program = PROGRAM if machine.device.type == "cpu" else 0
    return (f"memory: about {size(program + 4 * weights + 12 * trained + activations)} (weights {size(4 * weights)}, "
            f"gradients and AdamW {size(12 * trained)},\n  {what} {size(activations)})")


def kept_for_backward(model: nn.Module, batch: object, objective: Objective, machine: Machine) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, the weights left out.

    It runs in eval mode, so that a model sees no training step too many; dropout's masks are left out by that.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    modes = [(module, module.training) for module in model.modules()]
    low = machine.precision == "bfloat16"
    with torch.random.fork_rng([]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), \
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        outcome = objective(model.eval(), batch)
    for module, training in modes:
        module.training = training
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del outcome
    return sum(kept.values())


def size(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"


# ---- time ------------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Tells the time of an epoch from its first steps, by the tokens in them, padding included."""

    order: Callable[[int], Sequence[Sequence[int]]]  # epoch -> batches, as in Feed
    lengths: Sequence[int]
    now: Callable[[], float] = time.perf_counter
    start: float | None = None
    tokens: int = 0  # seen since the start
    steps: int = 0
    seconds: float | None = field(default=None)  # of an epoch, once it is known

    def step(self, state: TrainState) -> None:
        """Take note of a step, just taken. Does nothing once the time is known."""
        if self.seconds is not None:
            return
        self.steps += 1
        if self.steps == WARM_UP:
            self.start = self.now()
        elif self.steps > WARM_UP:
            batches = self.order(state.epoch)
            self.tokens += self.padded(batches[state.batch - 1:state.batch])
            if self.steps == WARM_UP + TIMED:
                self.seconds = (self.now() - self.start) / self.tokens * self.padded(batches)

    def padded(self, batches: Sequence[Sequence[int]]) -> int:
        """Return the tokens in some batches, padding included."""
        return sum(len(rows) * max(self.lengths[row] for row in rows) for rows in batches)


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


# ---- learning rate ---------------------------------------------------------------------------------------------------


def find_rate(trial: Trial, picture: Path) -> float:
    """Train at rates that rise from step to step, write a plot of the losses, and return the rate to take.

    The groups of the optimizer keep the ratio of their rates. UserError if no rate makes the loss smaller. Smith 2017,
    "Cyclical Learning Rates for Training Neural Networks".
    """
    groups = trial.optimizer.param_groups
    ratios = [group["lr"] / groups[0]["lr"] for group in groups]
    rates, losses, before = [], [], 0.0

    def rate(step: int) -> float:
        return LOW * (HIGH / LOW) ** (step / (STEPS - 1))

    def set_rate(step: int) -> None:
        for group, ratio in zip(groups, ratios, strict=True):
            group["lr"] = rate(step) * ratio

    def note(state: TrainState) -> None:
        nonlocal before
        before = 0.0 if state.batch == 1 else before
        rows = len(trial.feed.order(state.epoch)[state.batch - 1])
        rates.append(groups[0]["lr"])
        losses.append((state.loss_sum - before) / rows)
        before = state.loss_sum
        curve = smoothed(losses)
        if curve[-1] > WORSE * min(curve):
            raise Enough
        set_rate(len(rates))

    set_rate(0)
    with contextlib.suppress(Diverged):  # the last rates are far too high: so they should be
        trial.run(STEPS, note)
    chosen = suggested(rates, losses)
    if trial.machine.group.is_main:
        plot(rates, losses, chosen, picture)
    return chosen


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the rate at which the smoothed loss is least. UserError if the loss never falls.

    The least loss must lie below the first ones by more than these differ from each other.
    """
    first, curve = losses[:FIRST], smoothed(losses)[FIRST:]
    if not curve or min(curve) > statistics.mean(first) - statistics.stdev(first):
        raise UserError("no learning rate of the range test made the loss clearly smaller: are the labels right?")
    return rates[FIRST + min(range(len(curve)), key=curve.__getitem__)] / 10


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the running means of some losses, each unbiased by the zero that a running mean begins with."""
    mean, curve = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        curve.append(mean / (1 - SMOOTH**step))
    return curve


def plot(rates: Sequence[float], losses: Sequence[float], chosen: float, path: Path) -> None:
    """Write the picture of a range test as PNG."""
    from matplotlib.figure import Figure  # late: it takes half a second

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.8", label="loss of each step")
    axes.semilogx(rates, smoothed(losses), label="smoothed")
    axes.axvline(chosen, linestyle="--", color="C1", label=f"{chosen:.1e}")
    axes.set(xlabel="learning rate", ylabel="training loss", ylim=(0, 2 * max(smoothed(losses)[0], losses[0])))
    axes.legend()
    make_folder(path.parent)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    say(f"the losses of the range test: {path}")
