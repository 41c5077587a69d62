from torch import nn

from modules.attention import CausalSelfAttention


class GPT2Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.hidden_size
        self.self_attention = CausalSelfAttention(config)
        self.attention_layer_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.attention_dense = nn.Linear(d, d)
        self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)

        self.out_layer_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.interm_dense = nn.Linear(d, config.intermediate_size)
        self.interm_act = nn.GELU(approximate="tanh")  # gelu_new, the one OpenAI used
        self.out_dense = nn.Linear(config.intermediate_size, d)
        self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

    def attention_block(self, x, attention_mask):
        y = self.self_attention(self.attention_layer_norm(x), attention_mask)
        return self.attention_dropout(self.attention_dense(y))

    def mlp_block(self, x):
        y = self.interm_act(self.interm_dense(self.out_layer_norm(x)))
        return self.out_dropout(self.out_dense(y))

    def forward(self, hidden_states, attention_mask):
        hidden_states = hidden_states + self.attention_block(hidden_states, attention_mask)
        hidden_states = hidden_states + self.mlp_block(hidden_states)
        return hidden_states
