"""Stands in for modules/gpt2_layer.py where models/gpt2.py is graded: it shows what a layer was given."""

import torch
from torch import Tensor, nn

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
    """A linear map of each token, plus a linear map of the mean over the tokens that the mask lets through.

    That mean uses softmax(mask), so any large negative number does, and so does a number added to the whole mask.
    """

    def __init__(self, config) -> None:
        super().__init__()
        C = config.hidden_size
        self.own, self.shared = nn.Parameter(torch.eye(C)), nn.Parameter(torch.eye(C))

        # Not used, but the contract names them, and a model may draw their first weights.
        self.self_attention = CausalSelfAttention(config)
        self.attention_layer_norm, self.out_layer_norm = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention_dense, self.interm_dense, self.out_dense = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
        self.attention_dropout, self.out_dropout = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """hidden_states [B, T, C], attention_mask [B, 1, 1, T] additive -> [B, T, C]."""
        B, T, _ = hidden_states.shape
        if attention_mask.shape != (B, 1, 1, T):
            raise ValueError(f"a layer's attention_mask must be [B, 1, 1, T], here {[B, 1, 1, T]}, "
                             f"not {list(attention_mask.shape)}")
        weights = attention_mask[:, 0].to(hidden_states.dtype).softmax(dim=-1)  # [B, 1, T]
        return hidden_states @ self.own.T + weights @ hidden_states @ self.shared.T
