import torch
from torch import nn
from transformers import GPT2Model as OpenAIGPT2Model

from config import GPT2Config
from models.base_gpt import GPTPreTrainedModel
from modules.gpt2_layer import GPT2Layer
from utils import get_extended_attention_mask

DEBUG = False


class GPT2Model(GPTPreTrainedModel):
  def __init__(self, config, verbose=False):
    super().__init__(config)
    self.config = config
    self.verbose = verbose
    self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
    self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
    self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)
    position_ids = torch.arange(config.max_position_embeddings).unsqueeze(0)
    self.register_buffer('position_ids', position_ids, persistent=False)
    self.gpt_layers = nn.ModuleList([GPT2Layer(config) for _ in range(config.num_hidden_layers)])
    self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    self.init_weights()

  def embed(self, input_ids):
    words = self.word_embedding(input_ids)
    positions = self.pos_embedding(self.position_ids[:, :input_ids.size(1)])
    if DEBUG:
      print('words', words.shape, 'positions', positions.shape)
    return self.embed_dropout(words + positions)

  def encode(self, hidden_states, attention_mask, output_all=False):
    mask = get_extended_attention_mask(attention_mask, self.dtype)
    everything = [hidden_states]
    for layer in self.gpt_layers:
      hidden_states = layer(hidden_states, mask)
      everything.append(hidden_states)
    if output_all:
      return hidden_states, everything
    return hidden_states

  def forward(self, input_ids, attention_mask, output_all=False):
    h = self.embed(input_ids)
    h = self.encode(h, attention_mask)
    h = self.final_layer_norm(h)
    if DEBUG or self.verbose:
      print('final', h.shape)

    # last token that is not padding
    lengths = attention_mask.sum(dim=1).long()
    last_token = torch.stack([h[i, n - 1] for i, n in enumerate(lengths)])
    return {'last_hidden_state': h, 'last_token': last_token}

  def hidden_state_to_token(self, hidden_state):
    return torch.matmul(hidden_state, self.word_embedding.weight.t())

  @classmethod
  def from_pretrained(cls, model='gpt2', d=768, l=12, num_heads=12, **kwargs):
    theirs = OpenAIGPT2Model.from_pretrained(model).eval()
    ours = cls(GPT2Config(hidden_size=d, num_hidden_layers=l, num_attention_heads=num_heads,
                          intermediate_size=d * 4, **kwargs)).eval()

    def copy(dst, src, transpose=False):
      w = src.weight.data
      dst.weight.data = w.t().contiguous() if transpose else w.clone()
      if getattr(src, 'bias', None) is not None:
        dst.bias.data = src.bias.data.clone()

    copy(ours.word_embedding, theirs.wte)
    copy(ours.pos_embedding, theirs.wpe)
    copy(ours.final_layer_norm, theirs.ln_f)
    for a, b in zip(ours.gpt_layers, theirs.h):
      for n, lin in enumerate([a.self_attention.query, a.self_attention.key, a.self_attention.value]):
        lin.weight.data = b.attn.c_attn.weight.data[:, n * d:(n + 1) * d].t().contiguous()
        lin.bias.data = b.attn.c_attn.bias.data[n * d:(n + 1) * d].clone()
      copy(a.attention_dense, b.attn.c_proj, transpose=True)
      copy(a.attention_layer_norm, b.ln_1)
      copy(a.interm_dense, b.mlp.c_fc, transpose=True)
      copy(a.out_dense, b.mlp.c_proj, transpose=True)
      copy(a.out_layer_norm, b.ln_2)
    return ours
