from torch import nn
import torch.nn.functional as F

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
  def __init__(self, config):
    super().__init__()
    C, I = config.hidden_size, config.intermediate_size
    self.self_attention = CausalSelfAttention(config)
    self.attention_dense, self.interm_dense, self.out_dense = nn.Linear(C, C), nn.Linear(C, I), nn.Linear(I, C)
    self.attention_layer_norm, self.out_layer_norm = (nn.LayerNorm(C, eps=config.layer_norm_eps) for _ in range(2))
    self.attention_dropout, self.out_dropout = (nn.Dropout(config.hidden_dropout_prob) for _ in range(2))

  def forward(self, x, mask):
    x = x + self.attention_dropout(self.attention_dense(self.self_attention(self.attention_layer_norm(x), mask)))
    return x + self.out_dropout(self.out_dense(F.gelu(self.interm_dense(self.out_layer_norm(x)))))
