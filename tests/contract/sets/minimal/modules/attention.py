import torch
from torch import nn
import torch.nn.functional as F


class CausalSelfAttention(nn.Module):
  def __init__(self, config):
    super().__init__()
    C, self.h = config.hidden_size, config.num_attention_heads
    self.query, self.key, self.value = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
    self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

  def forward(self, hidden_states, attention_mask):
    B, T, C = hidden_states.shape
    q, k, v = (f(hidden_states).view(B, T, self.h, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
    mask = attention_mask + torch.full((T, T), float('-inf'), device=q.device, dtype=q.dtype).triu(1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout.p if self.training else 0.0)
    return y.transpose(1, 2).reshape(B, T, C)
