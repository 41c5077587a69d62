"""The forward pass of models/gpt2.py, faster: fused attention, fast dropout, the last block for the last token only.

It is written against the attribute names of the course's contract alone, so it runs the weights of any GPT2Model.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.attention import attention, last_token_attention
from engine.dropout import dropout

LARGE = 2**22
"""From so many numbers on, 16 MB in float32, GELU's results are computed again in the backward pass, not kept."""

FEW = 512
"""Up to so many tokens the weights are the larger matrix of most products."""

GELU_SCALE = 2 * math.sqrt(2 / math.pi)
"""GELU's form with tanh is x sigmoid(GELU_SCALE (x + 0.044715 x^3))."""


class FastGPT2:
    """Computes what gpt(input_ids, attention_mask) returns, with the weights and the dropouts of `gpt`.

    gpt: a GPT2Model of any origin. num_heads: nh. gelu: "tanh", or "none" for the exact form.
    """

    def __init__(self, gpt: nn.Module, num_heads: int, gelu: str = "tanh") -> None:
        self.gpt, self.num_heads, self.gelu = gpt, num_heads, gelu
        self.recompute = False
        "Recompute the blocks in the backward pass: less memory, more work."

    def last_token(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, T] -> {'last_token': [B, C]}, for those who need nothing else.

        Right padding needs no mask: the causal mask hides it. And the last block's work for all other tokens is saved,
        all but their keys and values.
        """
        visible = attention_mask.ne(0)
        last = (visible * torch.arange(visible.shape[1], device=visible.device)).argmax(dim=1)  # [B]
        has_holes = bool(visible.sum() != (last + 1).sum())
        *blocks, final = self.gpt.gpt_layers
        x = self.run(blocks, self.embed(input_ids), visible if has_holes else None)
        x = self.maybe_recomputed(self.last_block, final, x, visible, last)
        return {"last_token": self.gpt.final_layer_norm(x)}

    def all_tokens(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, T] -> {'last_hidden_state': [B, T, C], 'last_token': [B, C]}.

        attention_mask may be None where there is no padding.
        """
        visible = None if attention_mask is None else attention_mask.ne(0)
        x = self.gpt.final_layer_norm(self.run(self.gpt.gpt_layers, self.embed(input_ids), visible))
        texts = torch.arange(len(x), device=x.device)
        last = -1 if visible is None else (visible * torch.arange(x.shape[1], device=x.device)).argmax(dim=1)
        return {"last_hidden_state": x, "last_token": x[texts, last]}

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, C]"""
        gpt = self.gpt
        positions = gpt.pos_embedding.weight[:input_ids.shape[1]]
        return dropout(gpt.word_embedding(input_ids) + positions, gpt.embed_dropout)

    def run(self, blocks: list[nn.Module], x: Tensor, visible: Tensor | None) -> Tensor:
        """Blocks one after another: x [B, T, C], visible bool [B, T] or None -> [B, T, C]."""
        for layer in blocks:
            x = self.maybe_recomputed(self.block, layer, x, visible)
        return x

    def maybe_recomputed(self, function: Callable[..., Tensor], *args) -> Tensor:
        """function(*args), recomputed in the backward pass if that is wanted."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def block(self, layer: nn.Module, x: Tensor, visible: Tensor | None) -> Tensor:
        """What layer(x, mask) is: [B, T, C] -> [B, T, C]."""
        attended = self.attend(layer.self_attention, layer.attention_layer_norm(x), visible)
        attended = rows(linear(layer.attention_dense, columns(attended)), x)
        return self.feed_forward(layer, x + dropout(attended, layer.attention_dropout))

    def last_block(self, layer: nn.Module, x: Tensor, visible: Tensor, last: Tensor) -> Tensor:
        """What layer(x, mask) is at the tokens `last` [B]: [B, T, C] -> [B, C]."""
        texts = torch.arange(len(x), device=x.device)
        module, normed = layer.self_attention, layer.attention_layer_norm(x)
        query = self.heads(module.query(normed[texts, last, None]))  # [B, nh, 1, hs]
        key, value = self.heads(module.key(normed)), self.heads(module.value(normed))
        attended = last_token_attention(query, key, value, visible, active(module.dropout)).flatten(1)  # [B, C]
        attended = dropout(layer.attention_dense(attended), layer.attention_dropout)
        return self.feed_forward(layer, x[texts, last] + attended)

    def attend(self, module: nn.Module, x: Tensor, visible: Tensor | None) -> Tensor:
        """What self_attention(x, mask) is: [B, T, C] -> [B, T, C]."""
        query, key, value = (self.heads(part(x)) for part in (module.query, module.key, module.value))
        return attention(query, key, value, visible, active(module.dropout)).transpose(1, 2).flatten(2)

    def feed_forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The second half of a block: [..., C] -> [..., C]."""
        before = linear(layer.interm_dense, columns(layer.out_layer_norm(x)))
        inner = gelu(before, self.gelu)
        again = partial(gelu, before.detach(), self.gelu)
        with computed_again(inner, again) if inner.numel() >= LARGE and not self.recompute else nullcontext():
            out = linear(layer.out_dense, inner)
        return x + dropout(rows(out, x), layer.out_dropout)

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, nh, T, hs]"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def columns(x: Tensor) -> Tensor:
    """[..., C] -> [C, N], a view: each of the N tokens is a column."""
    return x.flatten(0, -2).t()


def rows(x: Tensor, like: Tensor) -> Tensor:
    """[C, N] -> [..., C], a view in the shape of `like`: each token is a row again."""
    return x.t().unflatten(0, like.shape[:-1])


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """What module(x) is, for tokens that are columns: [C, N] -> [C', N].

    The threads of a CPU share out the rows of a product's first matrix, and each of them reads the whole second one.
    So the weights come first where tokens are few: in float32 that saved 5 to 25% of the time for 100 to 500 tokens.
    """
    if (x.is_cpu and x.dtype == torch.float32 and x.shape[1] <= FEW and module.bias is not None
            and not torch.is_autocast_enabled("cpu")):
        return torch.addmm(module.bias[:, None], module.weight, x)
    return module(x.t()).t()


def gelu(x: Tensor, approximate: str) -> Tensor:
    """What F.gelu(x, approximate=approximate) is."""
    if approximate != "tanh" or not x.is_cpu or x.dtype != torch.float32 or torch.is_grad_enabled():
        return F.gelu(x, approximate=approximate)
    # (1 + tanh(z)) / 2 is sigmoid(2 z), which takes half the time on a CPU. But these steps have no gradient.
    return (x * x).mul_(0.044715 * GELU_SCALE).add_(GELU_SCALE).mul_(x).sigmoid_().mul_(x)


def computed_again(result: Tensor, function: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """While inside: `result` is not kept for the backward pass, where function() computes it again."""
    def pack(saved: Tensor) -> Tensor | tuple:
        same = saved.data_ptr() == result.data_ptr() and saved.numel() == result.numel()
        return (saved.shape, saved.stride()) if same else saved

    def unpack(kept: Tensor | tuple) -> Tensor:
        return function().as_strided(*kept) if isinstance(kept, tuple) else kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def active(module: nn.Dropout) -> float:
    """The probability with which a dropout drops now: 0 in eval mode."""
    return module.p if module.training else 0.0
