"""One GPT-2 block: attention, then a feed-forward network, each added to a residual stream."""

import torch.nn.functional as F
from torch import Tensor, nn

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019, section 2.3): normalise, transform, drop out, add.

        x <- x + dropout(dense(attention(norm(x))))
        x <- x + dropout(dense(gelu(dense(norm(x)))))       with its own norm, its own two dense layers

    The residual stream x itself is never normalised, so gradients do not become smaller on the way down.
    """

    def __init__(self, config):
        """config: hidden_size, intermediate_size, layer_norm_eps, hidden_dropout_prob; attention's fields."""
        super().__init__()
        C = config.hidden_size
        self.attention_layer_norm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.self_attention = CausalSelfAttention(config)
        self.attention_dense = nn.Linear(C, C)
        self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)

        self.out_layer_norm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.interm_dense = nn.Linear(C, config.intermediate_size)
        self.out_dense = nn.Linear(config.intermediate_size, C)
        self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """hidden_states [B, T, C], attention_mask [B, 1, 1, T] additive -> [B, T, C]."""
        # BEGIN SOLUTION
        x = hidden_states
        attended = self.self_attention(self.attention_layer_norm(x), attention_mask)
        x = x + self.attention_dropout(self.attention_dense(attended))
        # GPT-2's GELU is the tanh form; the exact (erf) form differs by up to 4.7e-4 and breaks parity.
        inner = F.gelu(self.interm_dense(self.out_layer_norm(x)), approximate="tanh")
        return x + self.out_dropout(self.out_dense(inner))
        # END SOLUTION
