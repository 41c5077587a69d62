"""Causal self-attention: each token gathers information from itself and from the tokens before it.

Shapes: B sequences, T tokens, C = nh * hs channels, nh heads of hs channels each.
"""

import math

import torch
from torch import Tensor, nn


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017, section 3.2), without the output projection.

    The layer owns that projection: `attention_dense` in gpt2_layer.py.
    """

    def __init__(self, config):
        """config: hidden_size (C), num_attention_heads (nh), attention_probs_dropout_prob."""
        super().__init__()
        C, nh = config.hidden_size, config.num_attention_heads
        if C % nh:
            raise ValueError(f"hidden_size ({C}) must be a multiple of num_attention_heads ({nh})")
        self.num_attention_heads = nh
        self.query = nn.Linear(C, C)
        self.key = nn.Linear(C, C)
        self.value = nn.Linear(C, C)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, nh, T, hs]"""
        B, T, C = x.shape
        return x.view(B, T, self.num_attention_heads, C // self.num_attention_heads).transpose(1, 2)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """hidden_states [B, T, C], attention_mask [B, 1, 1, T] -> softmax(Q K^T / sqrt(hs) + masks) V, [B, T, C].

        attention_mask is added to the scores: 0 for a token, a very large negative number for padding.
        """
        # BEGIN SOLUTION
        query = self.split_heads(self.query(hidden_states))
        key = self.split_heads(self.key(hidden_states))
        value = self.split_heads(self.value(hidden_states))

        # How well token i (row) matches token j (column): [B, nh, T, T].
        T, hs = query.shape[-2:]
        scores = query @ key.transpose(-2, -1) / math.sqrt(hs)

        # Token i may look at token j only where j <= i, and never at padding.
        causal = torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, -math.inf) + attention_mask

        # Dropout comes after the softmax: it forgets some of the tokens looked at and leaves the scores alone.
        weights = self.dropout(scores.softmax(dim=-1))  # each row sums to 1 before dropout

        mixed = weights @ value  # [B, nh, T, hs]
        return mixed.transpose(1, 2).flatten(2)  # heads side by side again: [B, T, C]
        # END SOLUTION
