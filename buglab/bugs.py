"""Twelve bugs. Each is put into a class that works, from outside: yours, so there is no solution to read here."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Bug:
    """A mistake that can be made in a part: what it is, and how to put it into a right class."""

    part: str
    title: str
    put_into: Callable[[type], type]


BUGS: list[Bug] = []
"The bugs, numbered from 1 in this order."


def bug(part: str) -> Callable:
    """Register a function (class -> class with a bug); its docstring says what the bug is."""
    def register(function: Callable[[type], type]) -> Callable[[type], type]:
        BUGS.append(Bug(part, (function.__doc__ or "").rstrip("."), function))
        return function
    return register


@bug("optimizer")
def bias_always_corrected(kind):
    """correct_bias is ignored: the means are always corrected."""
    class AdamW(kind):
        def __init__(self, *args, **keywords):
            super().__init__(*args[:5], **{**keywords, "correct_bias": True})
    return AdamW


@bug("optimizer")
def coupled_decay(kind):
    """The decay is added to the gradient (L2), so it is divided by sqrt(v)."""
    class AdamW(kind):
        @torch.no_grad()
        def step(self, closure=None):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            kept = [group["weight_decay"] for group in self.param_groups]
            gradients = {}
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        gradients[p] = p.grad
                        p.grad = p.grad + group["weight_decay"] * p
                group["weight_decay"] = 0.0
            super().step()
            for p, gradient in gradients.items():
                p.grad = gradient
            for group, decay in zip(self.param_groups, kept, strict=True):
                group["weight_decay"] = decay
            return loss
    return AdamW


@bug("optimizer")
def one_rate_for_all(kind):
    """Every group is trained with the first group's learning rate."""
    class AdamW(kind):
        def step(self, closure=None):
            kept = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = kept[0]
            loss = super().step(closure)
            for group, lr in zip(self.param_groups, kept, strict=True):
                group["lr"] = lr
            return loss
    return AdamW


@bug("attention")
def scores_not_scaled(kind):
    """The scores are not divided by sqrt(hs)."""
    class CausalSelfAttention(kind):
        def __init__(self, config):
            super().__init__(config)
            scale = math.sqrt(config.hidden_size / config.num_attention_heads)
            self.query.register_forward_hook(lambda module, inputs, query: query * scale)
    return CausalSelfAttention


@bug("attention")
def padding_attended(kind):
    """The padding mask is ignored."""
    class CausalSelfAttention(kind):
        def forward(self, hidden_states, attention_mask):
            return super().forward(hidden_states, torch.zeros_like(attention_mask))
    return CausalSelfAttention


@bug("attention")
def future_seen(kind):
    """There is no causal mask: every token sees all tokens."""
    class CausalSelfAttention(kind):
        def forward(self, hidden_states, attention_mask):
            # Attention knows no positions: put each token last in turn, and it sees all the others.
            T, rows = hidden_states.shape[1], []
            for i in range(T):
                order = [j for j in range(T) if j != i] + [i]
                rows.append(super().forward(hidden_states[:, order], attention_mask[..., order])[:, -1])
            return torch.stack(rows, dim=1)
    return CausalSelfAttention


@bug("layer")
def one_norm_for_both(kind):
    """The second half uses the first half's norm."""
    class GPT2Layer(kind):
        def forward(self, hidden_states, attention_mask):
            kept, self.out_layer_norm = self.out_layer_norm, self.attention_layer_norm
            try:
                return super().forward(hidden_states, attention_mask)
            finally:
                self.out_layer_norm = kept
    return GPT2Layer


@bug("layer")
def residual_missing(kind):
    """The second residual connection is missing."""
    class GPT2Layer(kind):
        def __init__(self, config):
            super().__init__(config)
            self.out_dropout.register_forward_hook(lambda module, inputs, x: setattr(self, "branch", x))

        def forward(self, hidden_states, attention_mask):
            super().forward(hidden_states, attention_mask)
            return self.branch
    return GPT2Layer


@bug("model")
def positions_from_one(kind):
    """Positions are counted from 1."""
    class GPT2Model(kind):
        def __init__(self, config):
            super().__init__(config)
            last = config.max_position_embeddings - 1
            self.pos_embedding.register_forward_hook(
                lambda module, inputs, x: F.embedding((inputs[0] + 1).clamp(max=last), module.weight))
    return GPT2Model


@bug("model")
def last_is_padding(kind):
    """last_token is the last position, padding or not."""
    class GPT2Model(kind):
        def forward(self, input_ids, attention_mask):
            outputs = super().forward(input_ids, attention_mask)
            return {**outputs, "last_token": outputs["last_hidden_state"][:, -1]}
    return GPT2Model


@bug("head")
def probabilities(kind):
    """The head returns probabilities, not logits."""
    class GPT2SentimentClassifier(kind):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids, attention_mask).softmax(dim=-1)
    return GPT2SentimentClassifier


@bug("head")
def logits_dropped(kind):
    """Dropout is applied to the logits."""
    class GPT2SentimentClassifier(kind):
        def __init__(self, config):
            super().__init__(config)
            self.logit_dropout = nn.Dropout(config.hidden_dropout_prob)

        def forward(self, input_ids, attention_mask):
            return self.logit_dropout(super().forward(input_ids, attention_mask))
    return GPT2SentimentClassifier
