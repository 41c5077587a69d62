import math

import torch
from torch import nn


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = int(config.hidden_size / config.num_attention_heads)
        self.all_head_size = self.num_attention_heads * self.attention_head_size

        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def transform(self, x, linear_layer):
        bs, seq_len = x.shape[:2]
        proj = linear_layer(x)
        # [bs, seq_len, hidden] -> [bs, seq_len, heads, head_size] -> [bs, heads, seq_len, head_size]
        proj = proj.view(bs, seq_len, self.num_attention_heads, self.attention_head_size).transpose(1, 2)
        return proj

    def attention(self, key, query, value, attention_mask):
        bs, num_heads, seq_len, head_size = query.shape

        scores = torch.matmul(query, key.transpose(-1, -2))
        scores = scores / math.sqrt(self.attention_head_size)

        # causal mask: -10000 above the diagonal, 0 elsewhere
        causal_mask = torch.triu(torch.ones(seq_len, seq_len, device=scores.device, dtype=scores.dtype), diagonal=1)
        scores = scores + causal_mask * -10000.0
        # padding mask, already 0 / -10000
        scores = scores + attention_mask

        probs = torch.softmax(scores, dim=-1)
        probs = self.dropout(probs)

        out = torch.matmul(probs, value)  # [bs, heads, seq_len, head_size]
        out = out.transpose(1, 2).contiguous().view(bs, seq_len, num_heads * head_size)
        return out

    def forward(self, hidden_states, attention_mask):
        """
        hidden_states: [bs, seq_len, hidden_state]
        attention_mask: [bs, 1, 1, seq_len]
        output: [bs, seq_len, hidden_state]
        """
        key_layer = self.transform(hidden_states, self.key)
        value_layer = self.transform(hidden_states, self.value)
        query_layer = self.transform(hidden_states, self.query)
        attn_value = self.attention(key_layer, query_layer, value_layer, attention_mask)
        return attn_value
