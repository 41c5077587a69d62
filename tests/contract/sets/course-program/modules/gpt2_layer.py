from torch import nn

from modules.attention import CausalSelfAttention

DEBUG = False


class GPT2Layer(nn.Module):
  def __init__(self, config):
    super().__init__()
    self.self_attention = CausalSelfAttention(config)
    self.attention_dense = nn.Linear(config.hidden_size, config.hidden_size)
    self.attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)
    self.interm_dense = nn.Linear(config.hidden_size, config.intermediate_size)
    self.interm_af = nn.GELU(approximate='tanh')
    self.out_dense = nn.Linear(config.intermediate_size, config.hidden_size)
    self.out_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

  def add(self, input, output, dense_layer, dropout):
    return input + dropout(dense_layer(output))

  def forward(self, hidden_states, attention_mask, return_attn_probs=False):
    attn_probs = None
    attn = self.self_attention(self.attention_layer_norm(hidden_states), attention_mask)
    if return_attn_probs:
      # second pass, only for the plots in the report
      _, attn_probs = self.self_attention(self.attention_layer_norm(hidden_states), attention_mask,
                                          return_attn_probs=True)
    h = self.add(hidden_states, attn, self.attention_dense, self.attention_dropout)
    if DEBUG:
      print('after attention', h.shape)
    ff = self.interm_af(self.interm_dense(self.out_layer_norm(h)))
    h = self.add(h, ff, self.out_dense, self.out_dropout)
    if return_attn_probs:
      return h, attn_probs
    return h
