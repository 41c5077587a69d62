import math

import torch
from einops import rearrange
from torch import nn


class CausalSelfAttention(nn.Module):
  def __init__(self, config):
    super().__init__()

    self.num_attention_heads = config.num_attention_heads
    self.attention_head_size = int(config.hidden_size / config.num_attention_heads)
    self.all_head_size = self.num_attention_heads * self.attention_head_size

    # Initialize the linear transformation layers for key, value, query.
    self.query = nn.Linear(config.hidden_size, self.all_head_size)
    self.key = nn.Linear(config.hidden_size, self.all_head_size)
    self.value = nn.Linear(config.hidden_size, self.all_head_size)
    self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    # True where attending is allowed
    causal = torch.tril(torch.ones(config.max_position_embeddings, config.max_position_embeddings)).bool()
    self.register_buffer('causal', causal, persistent=False)

  def transform(self, x, linear_layer):
    # The corresponding linear_layer of k, v, q are used to project the hidden_state (x).
    proj = linear_layer(x)
    # Split the projection into heads, then put the heads in front of the sequence.
    proj = rearrange(proj, 'b t (h d) -> b t h d', h=self.num_attention_heads)
    proj = rearrange(proj, 'b t h d -> b h t d')
    return proj

  def attention(self, key, query, value, attention_mask):
    ### YOUR CODE HERE
    T = query.shape[2]
    scores = query @ rearrange(key, 'b h t d -> b h d t') / math.sqrt(self.attention_head_size)
    scores = scores.masked_fill(~self.causal[:T, :T], float('-inf'))
    scores = scores + attention_mask
    attn = self.dropout(scores.softmax(dim=-1))
    return rearrange(attn @ value, 'b h t d -> b t (h d)')

  def forward(self, hidden_states, attention_mask):
    """
    hidden_states: [bs, seq_len, hidden_state]
    attention_mask: [bs, 1, 1, seq_len]
    output: [bs, seq_len, hidden_state]
    """
    # First, we have to generate the key, value, query for each token for multi-head attention
    # using self.transform (more details inside the function).
    key_layer = self.transform(hidden_states, self.key)
    value_layer = self.transform(hidden_states, self.value)
    query_layer = self.transform(hidden_states, self.query)

    # Calculate the multi-head attention.
    attn_value = self.attention(key_layer, query_layer, value_layer, attention_mask)
    return attn_value
