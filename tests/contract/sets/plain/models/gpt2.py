import torch
from torch import nn
from transformers import GPT2Model as OpenAIGPT2Model

from config import GPT2Config
from models.base_gpt import GPTPreTrainedModel
from modules.gpt2_layer import GPT2Layer
from utils import get_extended_attention_mask


class GPT2Model(GPTPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.config = config

        # embeddings
        self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)

        # layers
        self.gpt_layers = nn.ModuleList([GPT2Layer(config) for _ in range(config.num_hidden_layers)])

        # final layer norm
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

        self.init_weights()

    def embed(self, input_ids):
        seq_length = input_ids.size(1)
        inputs_embeds = self.word_embedding(input_ids)
        pos_ids = torch.arange(seq_length, device=input_ids.device)
        pos_embeds = self.pos_embedding(pos_ids).unsqueeze(0)
        return self.embed_dropout(inputs_embeds + pos_embeds)

    def encode(self, hidden_states, attention_mask):
        extended_attention_mask = get_extended_attention_mask(attention_mask, self.dtype)
        for layer_module in self.gpt_layers:
            hidden_states = layer_module(hidden_states, extended_attention_mask)
        return hidden_states

    def forward(self, input_ids, attention_mask):
        embedding_output = self.embed(input_ids=input_ids)
        sequence_output = self.encode(embedding_output, attention_mask=attention_mask)
        sequence_output = self.final_layer_norm(sequence_output)

        # hidden state of the last real token of each row
        last_idx = attention_mask.sum(dim=1) - 1
        last_token = sequence_output[torch.arange(sequence_output.size(0), device=sequence_output.device), last_idx]

        return {'last_hidden_state': sequence_output, 'last_token': last_token}

    def hidden_state_to_token(self, hidden_state):
        return hidden_state @ self.word_embedding.weight.T

    @classmethod
    def from_pretrained(cls, model='gpt2', d=768, l=12, num_heads=12):
        gpt_model = OpenAIGPT2Model.from_pretrained(model).eval()
        our_model = GPT2Model(GPT2Config(hidden_size=d, num_hidden_layers=l, num_attention_heads=num_heads,
                                         intermediate_size=d * 3)).eval()
        sd = gpt_model.state_dict()

        # word and positional embeddings
        our_model.word_embedding.weight.data = sd['wte.weight']
        our_model.pos_embedding.weight.data = sd['wpe.weight']

        for i in range(l):
            layer = our_model.gpt_layers[i]
            # q, k, v are one conv1d in HF
            w = sd[f'h.{i}.attn.c_attn.weight']
            b = sd[f'h.{i}.attn.c_attn.bias']
            layer.self_attention.query.weight.data = w[:, :d].T
            layer.self_attention.query.bias.data = b[:d]
            layer.self_attention.key.weight.data = w[:, d:d * 2].T
            layer.self_attention.key.bias.data = b[d:d * 2]
            layer.self_attention.value.weight.data = w[:, d * 2:].T
            layer.self_attention.value.bias.data = b[d * 2:]

            layer.attention_dense.weight.data = sd[f'h.{i}.attn.c_proj.weight'].T
            layer.attention_dense.bias.data = sd[f'h.{i}.attn.c_proj.bias']
            layer.attention_layer_norm.weight.data = sd[f'h.{i}.ln_1.weight']
            layer.attention_layer_norm.bias.data = sd[f'h.{i}.ln_1.bias']

            layer.interm_dense.weight.data = sd[f'h.{i}.mlp.c_fc.weight'].T
            layer.interm_dense.bias.data = sd[f'h.{i}.mlp.c_fc.bias']
            layer.out_dense.weight.data = sd[f'h.{i}.mlp.c_proj.weight'].T
            layer.out_dense.bias.data = sd[f'h.{i}.mlp.c_proj.bias']
            layer.out_layer_norm.weight.data = sd[f'h.{i}.ln_2.weight']
            layer.out_layer_norm.bias.data = sd[f'h.{i}.ln_2.bias']

        our_model.final_layer_norm.weight.data = sd['ln_f.weight']
        our_model.final_layer_norm.bias.data = sd['ln_f.bias']
        return our_model
