"""A classifier as numbers that JavaScript can read: its tensors, in few bytes, and proof that they are the whole model.

The page computes a GPT-2 with a linear head by itself. Whether that is what the student's files compute is tried out
here, with the same arithmetic in PyTorch, before any page is written.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.config import GPT2Config
from models.fine_tuned import named_weights
from models.pretrained import table
from serving.hugging_face import NotLinear, linear_head
from serving.model_folder import FineTuned

TOLERANCE = 1e-3  # of logits, for float32 in another order of sums
GELUS = ("tanh", "none")  # as torch.nn.functional.gelu names GPT-2's and the exact one


class NotForPage(UserError):
    """The live page cannot hold this model."""


@dataclass(frozen=True)
class Plain:
    """A classifier as a GPT-2 and a linear head, in float32, and nothing else."""

    config: GPT2Config
    gelu: str  # of GELUS
    gpt: dict[str, Tensor]  # by the course's names
    head: tuple[Tensor, Tensor]  # weight [num_labels, C], bias [num_labels]

    def logits(self, ids: list[int]) -> Tensor:
        """Return the logits [num_labels] for a text."""
        weight, bias = self.head
        return weight @ hidden(self.gpt, self.config, self.gelu, ids)[-1] + bias


def plain(model: FineTuned, rows: list[list[int]]) -> Plain:
    """Return a classifier as the page computes it. NotForPage if it then gives other logits for rows of token ids."""
    try:
        weight, bias = linear_head(model)
    except NotLinear as error:
        raise NotForPage(str(error).replace(", as GPT2ForSequenceClassification's is", "")
                         .replace(", which GPT2ForSequenceClassification does not", "")) from error
    want = torch.stack([logits_of(model, ids) for ids in rows])
    tensors, head = backbone_tensors(model.gpt, model.config), (weight.float(), bias.float())

    # The two forms of GELU differ by little, so the one that is nearer is the student's.
    forms = [Plain(model.config, gelu, tensors, head) for gelu in GELUS]
    answers = [torch.stack([form.logits(ids) for ids in rows]) for form in forms]
    nearest = min(range(len(forms)), key=lambda form: float((answers[form] - want).abs().max()))
    if not torch.allclose(answers[nearest], want, rtol=TOLERANCE, atol=TOLERANCE):
        raise NotForPage("the files in models/ and modules/ compute another model than GPT-2")
    return forms[nearest]


def logits_of(model: FineTuned, ids: list[int]) -> Tensor:
    """Return what the student's classifier says of a text: logits [num_labels]."""
    row = torch.tensor([ids])
    with torch.inference_mode():
        return model.classifier(row, torch.ones_like(row))[0]


def backbone_tensors(gpt: nn.Module, config: GPT2Config) -> dict[str, Tensor]:
    """Return a GPT-2's tensors by the course's names. NotForPage if it lacks one, or its shape is another."""
    own = named_weights(gpt)
    wanted = {}
    for entry in table(config):
        shape = [entry.shape[-1] // len(entry.ours), *entry.shape[:-1]] if entry.transposed else entry.shape
        wanted.update(dict.fromkeys(entry.ours, shape if entry.transposed or len(entry.ours) == 1
                                    else [entry.shape[0] // len(entry.ours)]))
    if wrong := [name for name, shape in wanted.items() if name not in own or list(own[name].shape) != shape]:
        raise NotForPage(f"the model in models/gpt2.py has no weight {wrong[0]} of GPT-2's shape")
    return {name: own[name].detach().float() for name in wanted}


def hidden(weights: Mapping[str, Tensor], config: GPT2Config, gelu: str, ids: list[int]) -> Tensor:
    """Run a GPT-2 as templates/live_model.js does: ids of T tokens -> vectors [T, C] after the final norm."""
    T, C, nh = len(ids), config.hidden_size, config.num_attention_heads

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (C,), weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_eps)

    def dense(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["word_embedding.weight"][ids] + weights["pos_embedding.weight"][:T]
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(config.num_hidden_layers):
        layer = f"gpt_layers.{i}"
        normed = norm(f"{layer}.attention_layer_norm", x)
        query, key, value = (dense(f"{layer}.self_attention.{part}", normed).view(T, nh, C // nh).transpose(0, 1)
                             for part in ("query", "key", "value"))  # [nh, T, hs]
        scores = (query @ key.transpose(1, 2) / math.sqrt(C // nh)).masked_fill(later, -math.inf)
        x = x + dense(f"{layer}.attention_dense", (scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
        inner = F.gelu(dense(f"{layer}.interm_dense", norm(f"{layer}.out_layer_norm", x)), approximate=gelu)
        x = x + dense(f"{layer}.out_dense", inner)
    return norm("final_layer_norm", x)


@dataclass
class Packed:
    """The tensors of a classifier's GPT-2, and of the one that it began with, one after another in few bytes.

    A matrix takes two bytes for each number. Where both have the same one, it is there once, as float16. Where training
    has changed it, the original is int8 with a scale for each row, and the trained one is that plus an int8 difference,
    which is small and so as exact as a float16. Vectors are float32.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)  # {form, shape, at: first byte, plus: another entry}
    content: bytearray = field(default_factory=bytearray)
    read: list[Tensor] = field(default_factory=list)
    "Each entry as the page reads it back, float32."

    def add_pair(self, trained: Tensor, original: Tensor | None) -> tuple[int, int]:
        """Add one tensor of both models; returns the numbers of their entries. original: None if there is none."""
        form = "float16" if trained.ndim == 2 else "float32"
        if original is None or torch.equal(trained, original):
            number = self._add(form, trained, trained.to(getattr(torch, form)))
            return number, number
        if form == "float32":
            return self._add(form, trained, trained), self._add(form, original, original)
        base = self._add("int8", original, *eight_bits(original))
        return self._add("int8", trained, *eight_bits(trained - self.read[base]), plus=base), base

    def _add(self, form: str, tensor: Tensor, *parts: Tensor, plus: int | None = None) -> int:
        """Add an entry whose bytes are those of `parts`; returns its number."""
        self.entries.append({"form": form, "shape": list(tensor.shape), "at": len(self.content), "plus": plus})
        self.content += b"".join(part.numpy().tobytes() for part in parts)
        self.content += bytes(-len(self.content) % 4)  # JavaScript reads float32 at multiples of 4
        whole = parts[0].float() if len(parts) == 1 else parts[0][:, None] * parts[1]
        self.read.append(whole if plus is None else whole + self.read[plus])
        return len(self.entries) - 1


def eight_bits(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return (scale [rows] float32, whole numbers from -127 to 127 [rows, C] int8) with tensor ~ scale * numbers."""
    scale = tensor.abs().amax(dim=1).clamp(min=1e-30) / 127
    return scale, (tensor / scale[:, None]).round().to(torch.int8)
