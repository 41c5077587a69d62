"""One transformer block of GPT-2 (pre-norm)."""
import math

import torch
from torch import Tensor, nn

from modules.attention import CausalSelfAttention


def gelu_new(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, as in the GPT-2 code of OpenAI."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
    return 0.5 * x * (1.0 + torch.tanh(inner))


class GPT2Layer(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        hidden_size: int = config.hidden_size
        intermediate_size: int = config.intermediate_size

        # ---- attention sub-layer ----
        self.self_attention = CausalSelfAttention(config)
        self.attention_dense = nn.Linear(hidden_size, hidden_size)
        self.attention_layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(p=config.hidden_dropout_prob)

        # ---- feed-forward sub-layer ----
        self.interm_dense = nn.Linear(hidden_size, intermediate_size)
        self.interm_af = gelu_new
        self.out_dense = nn.Linear(intermediate_size, hidden_size)
        self.out_layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.out_dropout = nn.Dropout(p=config.hidden_dropout_prob)

    def add(self, input: Tensor, output: Tensor, dense_layer: nn.Module, dropout: nn.Module) -> Tensor:
        """Project the output of a sub-layer, apply dropout, and add the residual."""
        projected_output = dense_layer(output)
        dropped_output = dropout(projected_output)
        return input + dropped_output

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        # Sub-layer 1: layer norm, attention, dense, dropout, residual.
        normalized_hidden_states = self.attention_layer_norm(hidden_states)
        attention_output = self.self_attention(normalized_hidden_states, attention_mask)
        hidden_states_after_attention = self.add(
            input=hidden_states,
            output=attention_output,
            dense_layer=self.attention_dense,
            dropout=self.attention_dropout,
        )

        # Sub-layer 2: layer norm, dense, GELU, dense, dropout, residual.
        normalized_after_attention = self.out_layer_norm(hidden_states_after_attention)
        intermediate_output = self.interm_dense(normalized_after_attention)
        activated_output = self.interm_af(intermediate_output)
        layer_output = self.add(
            input=hidden_states_after_attention,
            output=activated_output,
            dense_layer=self.out_dense,
            dropout=self.out_dropout,
        )
        return layer_output
