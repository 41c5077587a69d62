"""Causal self-attention: each token gathers information from itself and the tokens before it.

Shapes: B sequences, T tokens, C = nh * hs channels, nh heads of hs channels each.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.attention_in_pieces import attention_in_pieces
from modules.dropout import Dropout


def causal_mask(T: int, device: torch.device) -> Tensor:
    """bool [T, T]; entry (i, j) is True where token i may look at token j, that is, where j <= i."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
              dropout: nn.Dropout) -> Tensor:
    """softmax(Q K^T / sqrt(hs) + masks) V, step by step: the definition (Vaswani et al. 2017, section 3.2.1).

    query, key, value: [B, nh, T, hs]. attention_mask: None or [B, 1, 1, T], added to the scores: 0 where a
    token may be looked at, a very large negative number where it is padding. Returns [B, nh, T, hs].
    """
    T, hs = query.shape[-2:]
    scores = query @ key.transpose(-2, -1) / math.sqrt(hs)  # [B, nh, T, T]: how well query i matches key j
    scores = scores.masked_fill(~causal_mask(T, query.device), -math.inf)
    if attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)
    # Dropout comes after the softmax: it forgets some of the tokens looked at and leaves the scores alone.
    weights = dropout(scores.softmax(dim=-1))  # [B, nh, T, T]; each row sums to 1
    return weights @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                    dropout: nn.Dropout) -> Tensor:
    """attention() by PyTorch's fused kernel: the same numbers up to rounding, [B, nh, T, T] never stored."""
    p = dropout.p if dropout.training else 0.0
    if attention_mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=p, is_causal=True)
    mask = both_masks(query, attention_mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)


def dropping_attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                       dropout: nn.Dropout) -> Tensor:
    """attention() in pieces, for training with dropout on the CPU: the same numbers up to rounding."""
    p = dropout.p if dropout.training else 0.0
    return attention_in_pieces(query, key, value, both_masks(query, attention_mask), p)


def both_masks(query: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The causal mask and attention_mask as one, to be added to the scores: [T, T] or [B, 1, T, T]."""
    causal = causal_mask(query.shape[-2], query.device)
    visible = query.new_zeros(()) if attention_mask is None else attention_mask.to(query.dtype)
    return torch.where(causal, visible, -math.inf)


def fastest(query: Tensor, dropout: nn.Dropout) -> Callable[..., Tensor]:
    """The form of attention() that is fastest for this call; all give the same result.

    On a GPU always the fused one. PyTorch 2.13's CPU kernels know no dropout (the call then takes the same steps as
    attention(), only slower), and with bfloat16 their backward was 1.5 to 10 times slower for T <= 128 and C
    of 384 and 768. Otherwise they are faster on the CPU too: by 1.2 to 2.5 times at T = 128 and 512. With
    dropout, pieces are as fast as the plain steps at T = 22, and 1.4 and 1.7 times as fast at T = 200 and 500.
    """
    if query.device.type != "cpu":
        return fused_attention
    drops = dropout.training and dropout.p > 0
    if query.dtype in (torch.float16, torch.bfloat16):
        return attention if drops or query.requires_grad else fused_attention
    return dropping_attention if drops else fused_attention


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention, without the output projection, which the layer owns."""

    def __init__(self, config):
        """config: hidden_size, num_attention_heads, attention_probs_dropout_prob; maybe fused_attention."""
        super().__init__()
        C, nh = config.hidden_size, config.num_attention_heads
        if C % nh:
            raise ValueError(f"hidden_size ({C}) must be a multiple of num_attention_heads ({nh})")
        self.num_attention_heads = nh
        self.query = nn.Linear(C, C)
        self.key = nn.Linear(C, C)
        self.value = nn.Linear(C, C)
        self.dropout = Dropout(config.attention_probs_dropout_prob)
        self.fused = getattr(config, "fused_attention", False)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, nh, T, hs]"""
        B, T, C = x.shape
        return x.view(B, T, self.num_attention_heads, C // self.num_attention_heads).transpose(1, 2)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """hidden_states [B, T, C], attention_mask [B, 1, 1, T] additive (None: no padding) -> [B, T, C]."""
        query = self.split_heads(self.query(hidden_states))
        key = self.split_heads(self.key(hidden_states))
        value = self.split_heads(self.value(hidden_states))
        attend = fastest(query, self.dropout) if self.fused else attention
        mixed = attend(query, key, value, attention_mask, self.dropout)  # [B, nh, T, hs]
        return mixed.transpose(1, 2).flatten(2)  # heads side by side again: [B, T, C]
