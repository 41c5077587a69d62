"""Multi-head causal self-attention."""
from typing import Dict

import torch
from torch import Tensor, nn


def split_into_heads(projection: Tensor, number_of_heads: int) -> Tensor:
    """[batch, time, hidden] -> [batch, time, heads, head_size]"""
    batch_size, sequence_length, hidden_size = projection.shape
    head_size = hidden_size // number_of_heads
    return projection.reshape(batch_size, sequence_length, number_of_heads, head_size)


def merge_heads(context: Tensor) -> Tensor:
    """[batch, time, heads, head_size] -> [batch, time, hidden]"""
    batch_size, sequence_length, number_of_heads, head_size = context.shape
    return context.reshape(batch_size, sequence_length, number_of_heads * head_size)


def build_causal_mask(sequence_length: int, device: torch.device) -> Tensor:
    """Boolean matrix, True at [query, key] when the key lies in the future of the query."""
    query_positions = torch.arange(sequence_length, device=device).unsqueeze(1)
    key_positions = torch.arange(sequence_length, device=device).unsqueeze(0)
    return key_positions > query_positions


class CausalSelfAttention(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.num_attention_heads: int = config.num_attention_heads
        self.attention_head_size: int = config.hidden_size // config.num_attention_heads
        self.scaling_factor: float = self.attention_head_size ** -0.5

        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def project(self, hidden_states: Tensor) -> Dict[str, Tensor]:
        return {
            "query": split_into_heads(self.query(hidden_states), self.num_attention_heads),
            "key": split_into_heads(self.key(hidden_states), self.num_attention_heads),
            "value": split_into_heads(self.value(hidden_states), self.num_attention_heads),
        }

    def attention(self, projections: Dict[str, Tensor], attention_mask: Tensor) -> Tensor:
        query, key, value = projections["query"], projections["key"], projections["value"]

        attention_scores = torch.einsum("bqhd,bkhd->bhqk", query, key)
        attention_scores = attention_scores * self.scaling_factor

        # the future is forbidden
        causal_mask = build_causal_mask(attention_scores.size(-1), attention_scores.device)
        attention_scores = attention_scores.masked_fill(causal_mask, -1e9)

        # the padding is forbidden
        attention_scores = attention_scores + attention_mask

        attention_probabilities = self.softmax(attention_scores)
        attention_probabilities = self.dropout(attention_probabilities)

        context = torch.einsum("bhqk,bkhd->bqhd", attention_probabilities, value)
        return merge_heads(context)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        projections = self.project(hidden_states)
        attention_output = self.attention(projections, attention_mask)
        assert attention_output.shape == hidden_states.shape
        return attention_output
