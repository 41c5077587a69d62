"""The forward pass of models/gpt2.py, faster: fused attention, fast dropout, the last block for the last token only.

It is written against the attribute names of the course's contract alone, so it runs the weights of any GPT2Model.
"""

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
        rows = torch.arange(len(x), device=x.device)
        last = -1 if visible is None else (visible * torch.arange(x.shape[1], device=x.device)).argmax(dim=1)
        return {"last_hidden_state": x, "last_token": x[rows, last]}

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
        return self.feed_forward(layer, x + dropout(layer.attention_dense(attended), layer.attention_dropout))

    def last_block(self, layer: nn.Module, x: Tensor, visible: Tensor, last: Tensor) -> Tensor:
        """What layer(x, mask) is at the tokens `last` [B]: [B, T, C] -> [B, C]."""
        rows = torch.arange(len(x), device=x.device)
        module, normed = layer.self_attention, layer.attention_layer_norm(x)
        query = self.heads(module.query(normed[rows, last, None]))  # [B, nh, 1, hs]
        key, value = self.heads(module.key(normed)), self.heads(module.value(normed))
        attended = last_token_attention(query, key, value, visible, active(module.dropout)).flatten(1)  # [B, C]
        attended = dropout(layer.attention_dense(attended), layer.attention_dropout)
        return self.feed_forward(layer, x[rows, last] + attended)

    def attend(self, module: nn.Module, x: Tensor, visible: Tensor | None) -> Tensor:
        """What self_attention(x, mask) is: [B, T, C] -> [B, T, C]."""
        query, key, value = (self.heads(part(x)) for part in (module.query, module.key, module.value))
        return attention(query, key, value, visible, active(module.dropout)).transpose(1, 2).flatten(2)

    def feed_forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The second half of a block: [..., C] -> [..., C]."""
        before = layer.interm_dense(layer.out_layer_norm(x))
        inner = F.gelu(before, approximate=self.gelu)
        again = partial(F.gelu, before.detach(), approximate=self.gelu)
        with computed_again(inner, again) if inner.numel() >= LARGE and not self.recompute else nullcontext():
            out = layer.out_dense(inner)
        return x + dropout(out, layer.out_dropout)

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, nh, T, hs]"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def computed_again(result: Tensor, function: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """While inside: `result` is not kept for the backward pass, where function() computes it again."""
    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = saved.data_ptr() == result.data_ptr() and saved.numel() == result.numel()
        return saved.shape if same else saved

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        return function().view(kept) if isinstance(kept, torch.Size) else kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def active(module: nn.Dropout) -> float:
    """The probability with which a dropout drops now: 0 in eval mode."""
    return module.p if module.training else 0.0
