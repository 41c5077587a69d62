import torch
import torch.nn.functional as F
from torch import nn


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads

        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def _split(self, x):
        # (B, T, C) -> (B, H, T, C/H)
        return x.unflatten(-1, (self.n_heads, self.head_dim)).permute(0, 2, 1, 3)

    def _combined_mask(self, attention_mask, T, dtype, device):
        lowest = torch.finfo(dtype).min
        causal = torch.full((T, T), lowest, dtype=dtype, device=device).triu(diagonal=1)
        attention_mask = attention_mask + 0.0  # in case somebody gives an int mask
        # the sum of two of these is -inf, and a row of only -inf is nan after softmax: clamp
        return torch.clamp(attention_mask + causal, min=lowest)

    def forward(self, hidden_states, attention_mask):
        T = hidden_states.shape[1]
        q = self._split(self.query(hidden_states))
        k = self._split(self.key(hidden_states))
        v = self._split(self.value(hidden_states))

        scores = (q @ k.mT) * self.head_dim ** -0.5
        scores = scores + self._combined_mask(attention_mask, T, scores.dtype, scores.device)
        weights = F.softmax(scores, dim=-1)
        weights = self.dropout(weights)

        context = weights @ v
        return context.permute(0, 2, 1, 3).flatten(2)
