"""Stands in the place of attention while a layer is tested: it has attention's weights, and is no attention."""

from torch import nn


class CausalSelfAttention(nn.Module):
    """Mixes each token with the one before it, as much as its mask says."""

    def __init__(self, config):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_states, attention_mask, *more, **options):
        """hidden_states [B, T, C], attention_mask [B, 1, 1, T] -> query(x) + (1 + mask) key(x of the token before)."""
        before = hidden_states.roll(1, dims=1)
        return self.query(hidden_states) + (1 + attention_mask[:, 0, 0, :, None]) * self.key(before)
