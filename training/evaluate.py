"""Predictions of a model, and how good they are."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.progress import progress
from training.distributed import ALONE, Group
from training.memory import enough_memory, halved
from training.sharding import is_sharded


def leaves_model_as_found(function):
    """Decorator for function(model, ...): run it in eval mode without gradients, then restore every module's mode."""

    @functools.wraps(function)
    def wrapped(model: nn.Module, *args, **kwargs):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            # Inference mode would spoil the buffers in which a sharded model is gathered for the next training step.
            with torch.no_grad() if is_sharded(model) else torch.inference_mode():
                return function(model, *args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training

    return wrapped


@leaves_model_as_found
def predict(
    model: nn.Module,
    batches: Sequence[Sequence[int]],
    collate: Callable[[Sequence[int]], object],
    *,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    group: Group = ALONE,
    describe: str = "predicting",
) -> Tensor:
    """What the model returns for every row, in the order of the file: float32 [N, ...] on the CPU.

    batches: row numbers, each of 0..N-1 exactly once, in any order (longest first saves padding). The processes of a
    group share each batch out among them, and all get all outputs.
    """
    outputs = None
    for rows in progress(batches, describe, "batch"):
        mine, count = group.share(rows)
        batch = collate(mine).to(device)
        longest = batch.inputs[0].shape[1]
        with enough_memory(f"while {describe}, {len(mine)} texts of up to {longest} tokens at once",
                           halved("--max_length", longest), "a smaller --model"):
            with autocast():
                output = model(*batch.inputs).float().cpu()
        if outputs is None:
            outputs = output.new_zeros(sum(map(len, batches)), *output.shape[1:])
        if count:
            outputs[batch.index.cpu()] = output
    (outputs,) = group.sum(outputs)  # every row is one process's, and zero in all others
    return outputs


@dataclass(frozen=True)
class Score:
    """How good predictions are on N labelled examples."""

    accuracy: float
    macro_f1: float
    examples: int

    @property
    def standard_error(self) -> float:
        """Of the accuracy, from the size of the set alone: sqrt(p (1 - p) / N)."""
        return (self.accuracy * (1 - self.accuracy) / self.examples) ** 0.5


def score(labels: Sequence[int], predicted: Sequence[int]) -> Score:
    """Accuracy and macro-averaged F1 (over the classes that occur in either list)."""
    from sklearn.metrics import accuracy_score, f1_score  # late: importing it takes a second

    return Score(float(accuracy_score(labels, predicted)),
                 float(f1_score(labels, predicted, average="macro", zero_division=0)), len(labels))
