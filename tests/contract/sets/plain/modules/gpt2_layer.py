import torch.nn.functional as F
from torch import nn

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        # attention
        self.self_attention = CausalSelfAttention(config)
        self.attention_dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)
        # feed forward
        self.interm_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.interm_af = F.gelu
        self.out_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.out_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, attention_mask):
        # 1. attention block
        residual = hidden_states
        x = self.attention_layer_norm(hidden_states)
        x = self.self_attention(x, attention_mask)
        x = self.attention_dense(x)
        x = self.attention_dropout(x)
        x = residual + x

        # 2. feed forward block
        residual = x
        x = self.out_layer_norm(x)
        x = self.interm_af(self.interm_dense(x))
        x = self.out_dense(x)
        x = self.out_dropout(x)
        return residual + x
