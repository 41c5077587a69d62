"""GPT-2 for those who want nothing but each row's last token: the same vector, for less work.

Saved are the last block's work for all other tokens (a twelfth of GPT-2's, but for keys and values), and the padding
mask where padding is on the right: causal attention hides it from every token before it anyway.
"""

import torch.nn.functional as F
from torch import Tensor

from models.gpt2 import GPT2Model, additive_mask
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
    attention = layer.self_attention
    normed = layer.attention_layer_norm(hidden_states)
    query = attention.split_heads(attention.query(normed[rows, last][:, None]))  # [B, nh, 1, hs]
    key, value = (attention.split_heads(project(normed)) for project in (attention.key, attention.value))
    p = attention.dropout.p if attention.dropout.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None, None], dropout_p=p)
    x = hidden_states[rows, last] + layer.attention_dropout(layer.attention_dense(attended.flatten(1)))
    inner = F.gelu(layer.interm_dense(layer.out_layer_norm(x)), approximate="tanh")
    return x + layer.out_dropout(layer.out_dense(inner))
