"""GPT-2 for those who want nothing but each row's last token: the same vector, for less work.

Saved are the last block's work for all other tokens, a twelfth of GPT-2's, and the padding mask where padding is on the
right: causal attention hides it from every token before it anyway.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt2 import GPT2Model, additive_mask
from modules.attention import CausalSelfAttention
from modules.gpt2_layer import GPT2Layer


class LastTokenGPT2(GPT2Model):
    """GPT2Model whose forward gives last_token alone. Its last block is not called as a module, so no hook sees it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, T] -> {'last_token': [B, C]}; errors as in GPT2Model.forward."""
        self.check_inputs(input_ids, attention_mask)
        visible = attention_mask.ne(0)
        rows, last = self.last_positions(attention_mask)
        holes = visible.sum() != (last + 1).sum()
        hidden_states = self.embed(input_ids)
        mask = additive_mask(attention_mask, hidden_states.dtype) if holes else None
        *blocks, final = self.gpt_layers
        for layer in blocks:
            hidden_states = self.run_layer(layer, hidden_states, mask)
        last_token = block_at(final, hidden_states, visible, rows, last)
        return {"last_token": self.final_layer_norm(last_token)}


def block_at(layer: GPT2Layer, hidden_states: Tensor, visible: Tensor, rows: Tensor, last: Tensor) -> Tensor:
    """What `layer` makes of one token of each row: hidden_states [B, T, C] -> [B, C], equal to layer(...)[rows, last].

    visible: bool [B, T], True for a token. rows, last: [B], which tokens; none behind `last` is visible.
    """
    normed = layer.attention_layer_norm(hidden_states)
    attended = attend_from(layer.self_attention, normed[rows, last], normed, visible)
    x = hidden_states[rows, last] + layer.attention_dropout(layer.attention_dense(attended))
    inner = F.gelu(layer.interm_dense(layer.out_layer_norm(x)), approximate="tanh")
    return x + layer.out_dropout(layer.out_dense(inner))


def attend_from(attention: CausalSelfAttention, x: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
    """Attention of one token of each row, x [B, C], to the row's visible tokens [B, T, C]: [B, C].

    With one query a head, no token needs a key or a value of its own. q . (K t + b) = (q K) . t + q . b: the query is
    taken through the keys' weights once, instead of T tokens; and sum_t w_t (V t + b) = V (sum_t w_t t) + b sum_t w_t.
    """
    nh = attention.num_attention_heads
    query = attention.query(x).unflatten(1, (nh, -1))  # [B, nh, hs]
    K, V = (part.weight.unflatten(0, (nh, -1)) for part in (attention.key, attention.value))  # [nh, hs, C]
    key_bias, value_bias = (part.bias.unflatten(0, (nh, -1)) for part in (attention.key, attention.value))  # [nh, hs]
    asked = torch.einsum("bnh,nhc->bnc", query, K)
    scores = asked @ tokens.transpose(1, 2) + (query * key_bias).sum(dim=-1, keepdim=True)  # [B, nh, T]
    scores = (scores / math.sqrt(query.shape[-1])).masked_fill(~visible[:, None], -math.inf)
    weights = attention.dropout(scores.softmax(dim=-1))
    mixed = torch.einsum("bnc,nhc->bnh", weights @ tokens, V) + weights.sum(dim=-1, keepdim=True) * value_bias
    return mixed.flatten(1)
