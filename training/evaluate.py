"""Predict with a model, and score its predictions."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.cli import progress
from common.intervals import wilson
from training.loop import Diverged
from training.machine import Machine
from training.memory import explain_out_of_memory
from training.parallel.sharding import is_sharded


def leaves_model_as_found(function):
    """Decorate function(model, ...): it runs in eval mode without gradients, then each module gets its mode back."""

    @functools.wraps(function)
    def wrapped(model: nn.Module, *args, **kwargs):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            # A sharded model is gathered into buffers that training uses, too; inference mode would make them useless.
            with torch.no_grad() if is_sharded(model) else torch.inference_mode():
                return function(model, *args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training

    return wrapped


@leaves_model_as_found
def predict(model: nn.Module, batches: Sequence[Sequence[int]], collate: Callable[[Sequence[int]], object],
            machine: Machine, describe: str = "predicting", bar: bool = True) -> Tensor:
    """Run the model on every row and return its outputs in row order: float32 [N, ...] on the CPU.

    batches: row numbers, each of 0..N-1 exactly once, in any order (longest first needs the least padding). The
    processes of machine.group share each batch, and all of them get all outputs. bar: show progress on a terminal.
    Raises OutOfMemory, and Diverged if an output is infinite or NaN.
    """
    outputs = None
    for rows in progress(batches, describe, "batch", delay=1) if bar else batches:
        mine, count = machine.group.share(rows)
        batch = collate(mine).to(machine.device)
        longest = batch.inputs[0].shape[1]
        what = f"while {describe}, {len(mine)} texts of up to {longest} tokens at once"
        with explain_out_of_memory("predicting", what, longest), machine.autocast():
            output = model(*batch.inputs).float().cpu()
        if outputs is None:
            outputs = output.new_zeros(sum(map(len, batches)), *output.shape[1:])
        if count:
            outputs[batch.index.cpu()] = output
    (outputs,) = machine.group.sum(outputs)  # each row is zero in all processes but one
    finite = outputs.isfinite().reshape(len(outputs), -1).all(dim=1)
    if not finite.all():
        raise Diverged(f"while {describe}, the model's answers to {int((~finite).sum())} of {len(outputs)} texts "
                       "became NaN or infinite")
    return outputs


@dataclass(frozen=True)
class Score:
    """The quality of predictions on a number of labelled examples."""

    accuracy: float
    macro_f1: float
    examples: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy, from the number of examples alone; it holds at 0 and 1, too."""
        return wilson(self.accuracy, self.examples)


def score(labels: Sequence[int], predicted: Sequence[int]) -> Score:
    """Compute accuracy and macro-averaged F1 (over the classes that occur in either list)."""
    from sklearn.metrics import accuracy_score, f1_score  # imported late, because it takes a second

    return Score(float(accuracy_score(labels, predicted)),
                 float(f1_score(labels, predicted, average="macro", zero_division=0)), len(labels))
