import torch
import torch.nn.functional as F
from torch import nn

from config import GPT2Config
from models.base_gpt import GPTPreTrainedModel
from modules.gpt2_layer import GPT2Layer
from utils import get_extended_attention_mask


class GPT2Model(GPTPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gpt_layers = nn.ModuleList(GPT2Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.init_weights()

    def embed(self, input_ids):
        T = input_ids.shape[-1]
        if T > self.config.max_position_embeddings:
            raise ValueError(f"sequence of {T} tokens, the model has {self.config.max_position_embeddings} positions")
        tokens = self.word_embedding(input_ids)
        positions = self.pos_embedding.weight[:T]
        return self.embed_dropout(tokens + positions)

    def encode(self, hidden_states, attention_mask):
        mask = get_extended_attention_mask(attention_mask, hidden_states.dtype)
        for layer in self.gpt_layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states

    def forward(self, input_ids, attention_mask):
        hidden_states = self.encode(self.embed(input_ids), attention_mask)
        hidden_states = self.final_layer_norm(hidden_states)

        # index of the last 1 in each row of the mask
        steps = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
        last = (attention_mask * steps).argmax(dim=1)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return {"last_hidden_state": hidden_states, "last_token": hidden_states[rows, last]}

    def hidden_state_to_token(self, hidden_state):
        return F.linear(hidden_state, self.word_embedding.weight)

    @classmethod
    def from_pretrained(cls, model="gpt2", d=None, l=None, num_heads=None):
        import transformers
        hf = transformers.GPT2Model.from_pretrained(model)
        c = hf.config
        # d, l, num_heads stay for the course scripts, the checkpoint knows its own sizes
        ours = cls(GPT2Config(vocab_size=c.vocab_size, hidden_size=d or c.n_embd, num_hidden_layers=l or c.n_layer,
                              num_attention_heads=num_heads or c.n_head,
                              intermediate_size=c.n_inner or 4 * c.n_embd,
                              max_position_embeddings=c.n_positions, layer_norm_eps=c.layer_norm_epsilon,
                              name_or_path=model))

        new = {"word_embedding.weight": hf.wte.weight, "pos_embedding.weight": hf.wpe.weight,
               "final_layer_norm.weight": hf.ln_f.weight, "final_layer_norm.bias": hf.ln_f.bias}
        for i, block in enumerate(hf.h):
            pre = f"gpt_layers.{i}."
            weights = block.attn.c_attn.weight.T.chunk(3)
            biases = block.attn.c_attn.bias.chunk(3)
            for name, w, b in zip(["query", "key", "value"], weights, biases):
                new[pre + f"self_attention.{name}.weight"] = w
                new[pre + f"self_attention.{name}.bias"] = b
            for name, conv in [("attention_dense", block.attn.c_proj), ("interm_dense", block.mlp.c_fc),
                               ("out_dense", block.mlp.c_proj)]:
                new[pre + name + ".weight"] = conv.weight.T
                new[pre + name + ".bias"] = conv.bias
            for name, norm in [("attention_layer_norm", block.ln_1), ("out_layer_norm", block.ln_2)]:
                new[pre + name + ".weight"] = norm.weight
                new[pre + name + ".bias"] = norm.bias
        ours.load_state_dict(new)  # strict: complains when something is missing
        return ours.eval()
