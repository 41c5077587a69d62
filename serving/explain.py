"""Integrated gradients, by hand: how much each word of a text adds to the probability of a label.

Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". The words' vectors go in a straight line from zero
(every word blank, positions as they are) to their own values. A word's share is the integral of the gradient along that
line, times its vector; so all shares sum to p(text) - p(blank), but for the error of the numerical integral.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from data.rules import Rules
from serving.model_folder import FineTuned

STEPS = 50  # points of the Gauss-Legendre rule
TOKENS = 4096  # the most in one batch
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""What a share is given for: characters between spaces; where a script has no spaces, one character."""


@dataclass(frozen=True)
class Explanation:
    """The shares of a text's words in the probability of its most probable label."""

    label: int
    probability: float  # of the label, for the text
    blank: float  # of the same label, if every word were blank
    words: tuple[tuple[str, float], ...]  # (word, share), in the text's order, as the model sees it (lower-cased, cut)

    @property
    def error(self) -> float:
        """What is missing for completeness: probability = blank + all shares + error."""
        return self.probability - self.blank - sum(share for _, share in self.words)


def explain(model: FineTuned, sentence: str, device: torch.device) -> Explanation:
    """Explain the prediction for one text. UserError where the student's GPT-2 does not call its word_embedding."""
    ids = torch.tensor(model.encode([sentence]), device=device)  # [1, T]
    with torch.inference_mode():
        label = int(model.classifier(ids, torch.ones_like(ids)).argmax())
    shares, blank, probability = integrated_gradients(model.classifier, model.gpt.word_embedding, ids, label)
    words, places = read_words(model, sentence)
    sums = [0.0] * len(words)
    for place, share in zip(places, shares.tolist(), strict=False):
        sums[place] += share
    return Explanation(label, probability, blank, tuple(zip(words, sums, strict=True)))


def read_words(model: FineTuned, sentence: str) -> tuple[list[str], list[int]]:
    """Return the words that a model reads of a text, without what is cut off, and for each token its word's number.

    Each token belongs to the first word that does not end before it does. An empty text has no word and no token.
    """
    what = model.description
    text = Rules(what.rules)(sentence)
    text = text.lower() if what.lowercase else text
    words = list(WORD.finditer(text))
    spans = model.tokenizer.spans(text, what.max_length, what.keep_end) if words else []
    ends = [word.end() for word in words]
    places = [min(bisect_left(ends, end), len(words) - 1) for _, end in spans]
    first, end = (places[0], places[-1] + 1) if places else (0, 0)
    return [word[0] for word in words[first:end]], [place - first for place in places]


def integrated_gradients(classifier: nn.Module, embedding: nn.Module, ids: Tensor, label: int,
                         steps: int = STEPS) -> tuple[Tensor, float, float]:
    """Return each token's share [T] in the label's probability, and the probability for the blank text and the text.

    classifier: (input_ids, attention_mask [B, T]) -> logits, in eval mode. embedding: the module in it that turns ids
    into the vectors [B, T, C] that are varied. ids: [1, T].
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    alphas = torch.tensor([0.0, 1.0, *(nodes + 1) / 2], dtype=torch.float32, device=ids.device)
    weights = torch.tensor([0.0, 0.0, *weights / 2], dtype=torch.float64, device=ids.device)
    vectors = embedding(ids).detach()  # [1, T, C]
    total, probabilities = torch.zeros(vectors.shape[1:], dtype=torch.float64, device=ids.device), []
    for part in torch.arange(len(alphas)).split(max(1, TOKENS // ids.shape[1])):
        varied = (alphas[part, None, None] * vectors).requires_grad_()  # [part, T, C]
        hook = embedding.register_forward_hook(lambda *_, varied=varied: varied)
        try:
            many = ids.expand(len(part), -1)
            probability = classifier(many, torch.ones_like(many)).softmax(dim=1)[:, label]  # [part]
        finally:
            hook.remove()
        if not probability.requires_grad:
            raise UserError("models/gpt2.py does not call self.word_embedding(input_ids): nothing can be explained")
        gradient, = torch.autograd.grad(probability.sum(), varied)
        total += torch.einsum("b,btc->tc", weights[part], gradient.double())
        probabilities += probability.tolist()
    return (total * vectors[0].double()).sum(dim=1).cpu(), probabilities[0], probabilities[1]
