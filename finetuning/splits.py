"""The files of a task on their way to the model: read, and tokenised once."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from data.batching import FeatureDataset, TextDataset, eval_order
from data.reader import Example
from data.tasks import Task
from data.tokenizer import Tokenizer
from training.evaluate import predict
from training.machine import Machine

TEXTS, CPU_TOKENS = 32, 1024
"""The most that a batch to predict has, for each process. A thousand tokens run at full speed on a CPU."""


def prediction_order(lengths: Sequence[int], machine: Machine) -> list[list[int]]:
    """The batches in which texts of these lengths are predicted fastest."""
    processes = machine.group.size
    return eval_order(lengths, TEXTS * processes, CPU_TOKENS * processes if machine.device.type == "cpu" else None)


@dataclass(frozen=True)
class Split:
    """One file of a task, as examples and as what batches are made of, in the same order."""

    examples: list[Example]
    dataset: TextDataset | FeatureDataset

    @property
    def labels(self) -> list[int]:
        """One for each example; only for labelled splits."""
        return [example.label for example in self.examples]

    @property
    def texts(self) -> list[str]:
        """One for each example."""
        return [example.text for example in self.examples]

    def names(self, rows: list[int]) -> list[str]:
        """The ids of some examples."""
        return [self.examples[row].id for row in rows]

    def predict(self, model: nn.Module, machine: Machine, describe: str) -> Tensor:
        """What model(*inputs) gives for every example, in file order: float32 [N, ...] on the CPU."""
        return predict(model, prediction_order(self.dataset.lengths, machine), self.dataset.collate, machine, describe)


def read_splits(task: Task, tokenizer: Tokenizer, max_length: int) -> dict[str, Split]:
    """Read and tokenise the files that a task has; says how many texts are longer than max_length tokens and cut."""
    splits = {}
    for name in ("train", "dev", "test"):
        if task.path(name) is None:
            continue
        examples = task.read(name)
        encoded = tokenizer.encode([example.text for example in examples], max_length, task.lowercase)
        if encoded.truncated:
            print(f"{task.name} {name}: {encoded.truncated} of {len(examples)} texts cut to {max_length} tokens")
        labels = None if name == "test" else [example.label for example in examples]
        splits[name] = Split(examples, TextDataset(encoded.ids, labels, tokenizer.pad_id))
    return splits
