import math

import torch
from torch import nn

DEBUG = False


class CausalSelfAttention(nn.Module):
  def __init__(self, config):
    super().__init__()
    assert config.hidden_size % config.num_attention_heads == 0
    self.num_attention_heads = config.num_attention_heads
    self.attention_head_size = config.hidden_size // config.num_attention_heads

    self.query = nn.Linear(config.hidden_size, config.hidden_size)
    self.key = nn.Linear(config.hidden_size, config.hidden_size)
    self.value = nn.Linear(config.hidden_size, config.hidden_size)
    self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

  def transform(self, x, linear_layer):
    B, T, _ = x.shape
    return linear_layer(x).reshape(B, T, self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

  def attention(self, key, query, value, attention_mask):
    T = query.size(-2)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if DEBUG:
      print('scores', scores.shape, 'mask', attention_mask.shape)

    causal = torch.tril(torch.ones(T, T, dtype=torch.bool, device=scores.device))
    scores = scores.masked_fill(causal.logical_not(), float('-inf'))
    scores = scores + attention_mask

    probs = nn.functional.softmax(scores, dim=-1)
    # dropout on the probabilities: drops entire tokens to attend to
    dropped = self.dropout(probs)
    context = torch.matmul(dropped, value)
    # back to [B, T, C]
    context = context.permute(0, 2, 1, 3).contiguous()
    context = context.view(context.size(0), T, -1)
    return context, probs

  def forward(self, hidden_states, attention_mask, return_attn_probs=False):
    q = self.transform(hidden_states, self.query)
    k = self.transform(hidden_states, self.key)
    v = self.transform(hidden_states, self.value)
    if DEBUG:
      print('q', q.shape, 'k', k.shape, 'v', v.shape)
    context, probs = self.attention(k, q, v, attention_mask)
    if return_attn_probs:
      return context, probs
    return context
