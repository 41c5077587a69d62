"""Build the classifier of a run from its model folder, which models/fine_tuned.py describes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from classifier import GPT2SentimentClassifier
from common.errors import quoted
from data.rules import Rules
from data.tokenizer import Tokenizer
from finetuning.model import REAL_TOLERANCE, answer, texts
from models.config import GPT2Config
from models.fine_tuned import Description, ModelFolderError, named_weights, read
from models.gpt2 import GPT2Model
from models.pretrained import backbone_given, without_init


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier, on the CPU, in eval mode, as classifier.py and models/gpt2.py compute it."""

    description: Description
    config: GPT2Config
    tokenizer: Tokenizer
    classifier: nn.Module  # (input_ids, attention_mask [B, T]) -> logits [B, num_labels]
    gpt: nn.Module  # the GPT2Model in it

    @property
    def head(self) -> dict[str, Tensor]:
        """The weights that are not the backbone's, by their names in the classifier."""
        prefix = f"{self.description.backbone}."
        return {name: value for name, value in self.classifier.state_dict().items() if not name.startswith(prefix)}

    def encode(self, sentences: list[str]) -> list[list[int]]:
        """Turn texts into token ids exactly as in training: rules, lower-casing, the longest length."""
        return self._encode(sentences, self.description.max_length)

    def encode_whole(self, sentence: str) -> list[int]:
        """Turn one text into token ids in the same way, without cutting it."""
        return self._encode([sentence], sys.maxsize)[0]

    def _encode(self, sentences: list[str], max_length: int) -> list[list[int]]:
        rules, what = Rules(self.description.rules), self.description
        return self.tokenizer.encode([rules(text) for text in sentences], max_length, what.lowercase,
                                     what.keep_end).ids


def build(folder: Path) -> FineTuned:
    """Build the classifier of a model folder. UserError if the folder is damaged, or other code was trained.

    The run kept what its classifier answered to a few fixed texts: files that were changed since give other answers.
    """
    description, config, weights = read(folder)
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise ModelFolderError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model only "
                               f"{config.vocab_size}")

    # The student's classifier, whose own weights are of no interest; PyTorch's generator stays as it is.
    with torch.random.fork_rng([]), without_init():
        gpt = GPT2Model(config)
        with backbone_given(GPT2Model, gpt):
            classifier = GPT2SentimentClassifier(SimpleNamespace(
                num_labels=description.num_labels, hidden_size=config.hidden_size,
                hidden_dropout_prob=description.dropout, fine_tune_mode=description.fine_tune_mode))
    fill(classifier, weights, folder)
    classifier.eval().requires_grad_(False)

    # Is this the code that was trained?
    ids, mask = texts(config)
    found, kept = answer(classifier, ids, mask, gpt=gpt, forward=gpt.forward), torch.tensor(description.answers)
    if found.shape != kept.shape or not torch.allclose(found, kept, rtol=REAL_TOLERANCE, atol=REAL_TOLERANCE):
        raise ModelFolderError(f"{folder} was trained with other code: classifier.py, models/gpt2.py and modules/ now "
                               "give other logits with its weights\nBring back the files of that time, or train again")
    return FineTuned(description, config, tokenizer, classifier, gpt)


def fill(classifier: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy weights into a classifier by name. ModelFolderError, before any is copied, if they do not fit."""
    own = named_weights(classifier)
    for name in own.keys() | weights.keys():
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise ModelFolderError(f"{folder}: its weight {quoted(name, 80)} does not fit the classifier in "
                                   "classifier.py\nBring back the file of that time, or train again")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
