from torch import nn

import torch.nn.functional as F

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
  def __init__(self, config):
    super().__init__()
    # Multi-head attention.
    self.self_attention = CausalSelfAttention(config)
    # Add-norm for multi-head attention.
    self.attention_dense = nn.Linear(config.hidden_size, config.hidden_size)
    self.attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)
    # Feed forward.
    self.interm_dense = nn.Linear(config.hidden_size, config.intermediate_size)
    self.interm_af = F.gelu
    # Add-norm for feed forward.
    self.out_dense = nn.Linear(config.intermediate_size, config.hidden_size)
    self.out_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

  def add(self, input, output, dense_layer, dropout):
    """
    input: what comes in through the residual connection
    output: what the sub-layer made; goes through the dense layer and the dropout before it is added
    """
    ### YOUR CODE HERE
    return input + dropout(dense_layer(output))

  def forward(self, hidden_states, attention_mask):
    ### YOUR CODE HERE
    normed = self.attention_layer_norm(hidden_states)
    attn_out = self.self_attention(normed, attention_mask)
    hidden_states = self.add(hidden_states, attn_out, self.attention_dense, self.attention_dropout)

    normed = self.out_layer_norm(hidden_states)
    interm = self.interm_af(self.interm_dense(normed))
    hidden_states = self.add(hidden_states, interm, self.out_dense, self.out_dropout)
    # print('layer out', hidden_states.shape, hidden_states.mean())
    return hidden_states
