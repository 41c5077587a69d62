"""Predict with a fine-tuned classifier: the engine runs where it gives the same answers as the student's files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from data.batching import TextDataset
from finetuning.features import prediction_order
from finetuning.model import SMALL, answer, faster_forward, texts
from models.fine_tuned import Description
from models.gpt2 import GPT2Model
from serving.explain import Explanation, explain
from serving.find import find
from serving.model_folder import FineTuned, build
from training.evaluate import predict
from training.machine import Machine, choose_device


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one text."""

    label: int  # the most probable one
    name: str  # of that label
    probabilities: tuple[float, ...]  # of each label, from 0 up; they sum to 1


class Predictor:
    """A classifier that is loaded once and predicts any number of texts."""

    def __init__(self, model: FineTuned, machine: Machine) -> None:
        """Take the model to the machine's device, and let the engine answer where it may."""
        self.model, self.machine = model, machine
        serve_by_engine(model)
        model.classifier.to(machine.device)

    @classmethod
    def load(cls, run: str | os.PathLike, device: str = "auto") -> "Predictor":
        """Load the classifier of a finished run. UserError as `serving.load`."""
        machine = Machine(choose_device(device))  # in float32: probabilities with all their digits
        return cls(build(find(run)), machine)

    @property
    def description(self) -> Description:
        """What the classifier was trained for, and how it reads texts."""
        return self.model.description

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of each label, from 0 up."""
        return self.description.label_names

    def probabilities(self, sentences: Sequence[str], bar: bool = True) -> Tensor:
        """Return the probability of each label for each text: float64 [N, num_labels] on the CPU.

        bar: show progress on a terminal. Texts of similar length share a batch; the rows are in the texts' order.
        """
        if isinstance(sentences, str):
            raise TypeError("give a list of texts, not one text")
        if not len(sentences):
            return torch.empty(0, self.description.num_labels, dtype=torch.float64)
        ids = self.model.encode(list(sentences))
        dataset = TextDataset(ids, None, self.model.tokenizer.pad_id)
        batches = prediction_order(dataset.lengths, self.machine)
        logits = predict(self.model.classifier, batches, dataset.collate, self.machine, bar=bar)
        return logits.double().softmax(dim=1)

    def predict(self, sentences: Sequence[str], bar: bool = True) -> list[Prediction]:
        """Return a Prediction for each text, in their order. An empty text gets one, too."""
        rows = self.probabilities(sentences, bar)
        return [Prediction(label, self.label_names[label], tuple(row))
                for label, row in zip(rows.argmax(dim=1).tolist(), rows.tolist(), strict=True)]

    def explain(self, sentence: str) -> Explanation:
        """Return how much each word of a text adds to the probability of the predicted label."""
        return explain(self.model, sentence, self.machine.device)


def serve_by_engine(model: FineTuned) -> None:
    """Let engine/ compute the backbone where it agrees with the student's files; without the folder, they run."""
    if find_spec("engine") is None:
        return
    from engine.agree import check_gpt2

    heads, (ids, mask) = SMALL.num_attention_heads, texts(model.config)
    with torch.random.fork_rng([]):
        agreement = check_gpt2(GPT2Model(SMALL), heads, SMALL.vocab_size)
    if agreement:
        logits = answer(model.classifier, ids, mask, gpt=model.gpt, forward=model.gpt.forward)
        forward = faster_forward(model.classifier, model.gpt, model.config, agreement, logits, ids, mask)
        model.gpt.forward = forward or model.gpt.forward
