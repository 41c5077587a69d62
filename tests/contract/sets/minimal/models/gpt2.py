import torch
from torch import nn
import transformers

from config import GPT2Config
from modules.gpt2_layer import GPT2Layer


class GPT2Model(nn.Module):
  def __init__(self, config):
    super().__init__()
    self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
    self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
    self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)
    self.gpt_layers = nn.ModuleList([GPT2Layer(config) for _ in range(config.num_hidden_layers)])
    self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

  def embed(self, ids):
    return self.embed_dropout(self.word_embedding(ids) + self.pos_embedding.weight[:ids.shape[1]])

  def encode(self, h, mask):
    mask = (1 - mask[:, None, None, :].to(h.dtype)) * -1e4
    for layer in self.gpt_layers:
      h = layer(h, mask)
    return h

  def forward(self, input_ids, attention_mask):
    h = self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))
    return {'last_hidden_state': h, 'last_token': h[range(len(h)), attention_mask.long().sum(1) - 1]}

  def hidden_state_to_token(self, h):
    return h @ self.word_embedding.weight.t()

  @classmethod
  def from_pretrained(cls, model='gpt2', d=768, l=12, num_heads=12):
    hf = transformers.GPT2Model.from_pretrained(model)
    ours = cls(GPT2Config(hidden_size=d, num_hidden_layers=l, num_attention_heads=num_heads, intermediate_size=4 * d))
    return ours if ours.load_state_dict(rename(hf.state_dict(), d)) else None


def rename(sd, d):
  names = {'wte': 'word_embedding', 'wpe': 'pos_embedding', 'ln_f': 'final_layer_norm', 'h.': 'gpt_layers.',
           'attn.c_proj': 'attention_dense', 'mlp.c_fc': 'interm_dense', 'mlp.c_proj': 'out_dense',
           'ln_1': 'attention_layer_norm', 'ln_2': 'out_layer_norm'}
  out = {}
  for key, w in sd.items():
    if 'c_' in key and w.dim() == 2:
      w = w.T
    for a, b in names.items():
      key = key.replace(a, b)
    if 'c_attn' in key:
      for name, part in zip(('query', 'key', 'value'), w.split(d)):
        out[key.replace('attn.c_attn', 'self_attention.' + name)] = part
    else:
      out[key] = w
  return out
