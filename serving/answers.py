"""What the live page shows of a text, from the student's own modules: report/templates/live_model.js does the same."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetuning.features import StoredFeatures
from finetuning.model import answer
from serving.explain import explain, read_words
from serving.predictor import Predictor

DRAWN, GUESSES = 32, 5  # tokens in an attention map; next words
TOLERANCE = 1e-3


class Answers:
    """Answers for one text at a time; not for two threads at once."""

    def __init__(self, predictor: Predictor, backbone: nn.Module | None) -> None:
        """backbone: the GPT-2 that guesses the next word, None if there is none."""
        self.predictor, self.model, self.backbone = predictor, predictor.model, backbone
        self.gpt = self.model.gpt
        self.forward = functools.partial(type(self.gpt).forward, self.gpt)  # the student's, not the engine's

    @torch.inference_mode()
    def predict(self, text: str) -> dict[str, Any]:
        """Return {"answer": {probabilities, steps, words, tokens, read, attention, why}, "guesses": [[token, p]]}."""
        words, places = read_words(self.model, text)
        ids = torch.tensor(self.model.encode([text]), device=self.predictor.machine.device)  # [1, T]
        mask = torch.ones_like(ids)
        with recorded(self.gpt) as parts:
            vectors = answer(self.gpt, ids, mask, gpt=self.gpt, forward=self.forward)["last_hidden_state"][0]  # [T, C]
        logits = self.model.classifier(ids, mask)
        ends = [max(t for t, place in enumerate(places) if place <= word) for word in range(len(words))]
        maps, why = self.attention(parts)
        size = min(DRAWN, ids.shape[1])
        said = {"probabilities": probabilities(logits)[0], "words": words, "read": ids.shape[1],
                "steps": self.steps(ids, vectors, logits, ends), "why": why,
                "tokens": len(places) and len(self.model.encode_whole(text)),
                "attention": maps and {"layers": len(maps), "heads": len(maps[0]), "size": size,
                                       "maps": [round(weight, 4) for layer in maps
                                                for weight in layer[:, -size:, -size:].flatten().tolist()],
                                       "tokens": [self.name(id) for id in ids[0, -size:].tolist()]}}
        return {"answer": said, **self.guesses(ids, mask, vectors)}

    def explain(self, text: str) -> dict[str, Any]:
        """Return {"shares": one for each word}, by integrated gradients."""
        explanation = explain(self.model, text, self.predictor.machine.device)
        return {"shares": [share for _, share in explanation.words]}

    def steps(self, ids: Tensor, vectors: Tensor, logits: Tensor, ends: list[int]) -> list[list[float]]:
        """Return the probabilities after each word, whose last tokens are `ends`.

        One pass will do for a head that reads nothing but the last token's vector: GPT-2 looks back only. For another
        head each beginning of the text is read by itself.
        """
        with contextlib.suppress(Exception):  # a student's class, handed less than it reads, may raise anything
            rows = answer(self.model.classifier, vectors, torch.ones_like(ids[0, :, None]), gpt=self.gpt,
                          forward=StoredFeatures().forward)
            if torch.allclose(rows[-1], logits[0], rtol=TOLERANCE, atol=TOLERANCE):
                return probabilities(rows[ends])
        return [probabilities(self.model.classifier(ids[:, :end + 1], torch.ones_like(ids[:, :end + 1])))[0]
                for end in ends]

    def attention(self, parts: list[dict[str, Tensor]]) -> tuple[list[Tensor] | None, str]:
        """Return each layer's attention weights [nh, T, T]; None, and why, if the student's module computes otherwise.

        parts: for each layer what its query, key and value gave, and what the module made of them: [1, T, C].
        """
        maps = []
        for part in parts:
            if len(part) != 4:
                return None, "modules/attention.py does not call its query, key and value: there is nothing to draw."
            heads = self.model.config.num_attention_heads, -1
            query, key, value = (part[name][0].unflatten(-1, heads).transpose(0, 1)
                                 for name in ("query", "key", "value"))  # [nh, T, hs]
            scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
            later = torch.ones_like(scores, dtype=torch.bool).triu(1)
            weights = scores.masked_fill(later, -math.inf).softmax(-1)
            mixed = (weights @ value).transpose(0, 1).flatten(1)
            if not torch.allclose(mixed, part["output"][0], rtol=TOLERANCE, atol=TOLERANCE):
                return None, "modules/attention.py computes another attention than GPT-2's: it is not drawn."
            maps.append(weights)
        return maps, ""

    def guesses(self, ids: Tensor, mask: Tensor, vectors: Tensor) -> dict[str, Any]:
        """Return {"guesses": the likeliest next tokens of the pretrained model, with probabilities}."""
        if self.backbone is None:
            return {}
        last = vectors[-1] if self.backbone is self.gpt else self.backbone(ids, mask)["last_token"][0]
        best = (last @ self.backbone.word_embedding.weight.T).float().softmax(-1).topk(GUESSES)
        return {"guesses": [[self.name(id), p] for id, p in zip(best.indices.tolist(), best.values.tolist(),
                                                                strict=True)]}

    def name(self, id: int) -> str:
        """Return a token as a person reads it, with the space before it."""
        return " (end of the text)" if id == self.model.tokenizer.pad_id else self.model.tokenizer.decode([id])


def probabilities(logits: Tensor) -> list[list[float]]:
    """Return the softmax of each row."""
    return logits.double().softmax(-1).tolist()


@contextlib.contextmanager
def recorded(gpt: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """Inside, keep what each layer's query, key, value and attention give; nothing for modules that are not there."""
    parts: list[dict[str, Tensor]] = []
    handles = []
    for layer in gpt.gpt_layers:
        attention, part = getattr(layer, "self_attention", None), {}
        parts.append(part)
        modules = {"output": attention, **{name: getattr(attention, name, None) for name in ("query", "key", "value")}}
        for name, module in modules.items():
            if isinstance(module, nn.Module):
                handles.append(module.register_forward_hook(
                    lambda _module, _inputs, output, part=part, name=name: part.update({name: output})))
    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()
