import torch
from torch import nn
from transformers import GPT2Model as OpenAIGPT2Model

from config import GPT2Config
from models.base_gpt import GPTPreTrainedModel
from modules.gpt2_layer import GPT2Layer
from utils import *


class GPT2Model(GPTPreTrainedModel):
  """
  The model returns the final embeddings for each token in a sentence.
  """

  def __init__(self, config):
    super().__init__(config)
    self.config = config

    # Embedding layers.
    self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
    self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
    self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)

    # Register position_ids (1, len position emb) to buffer because it is a constant.
    position_ids = torch.arange(config.max_position_embeddings).unsqueeze(0)
    self.register_buffer('position_ids', position_ids)

    # GPT-2 layers.
    self.gpt_layers = nn.ModuleList([GPT2Layer(config) for _ in range(config.num_hidden_layers)])

    # [CLS] token transformations.
    self.pooler_dense = nn.Linear(config.hidden_size, config.hidden_size)
    self.pooler_af = nn.Tanh()

    # Final layer norm.
    self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    self.init_weights()

  def embed(self, input_ids):
    input_shape = input_ids.size()
    seq_length = input_shape[1]

    ### YOUR CODE HERE
    inputs_embeds = self.word_embedding(input_ids)
    pos_ids = self.position_ids[:, :seq_length]
    pos_embeds = self.pos_embedding(pos_ids)
    return self.embed_dropout(inputs_embeds + pos_embeds)

  def encode(self, hidden_states, attention_mask):
    """
    hidden_states: the output from the embedding layer [batch_size, seq_len, hidden_size]
    attention_mask: [batch_size, seq_len]
    """
    # [batch_size, 1, 1, seq_len]; 0 for real tokens, a large negative number for padding
    extended_attention_mask = get_extended_attention_mask(attention_mask, self.dtype)

    for i, layer_module in enumerate(self.gpt_layers):
      hidden_states = layer_module(hidden_states, extended_attention_mask)

    return hidden_states

  def forward(self, input_ids, attention_mask):
    """
    input_ids: [batch_size, seq_len], seq_len is the max length of the batch
    attention_mask: same size as input_ids, 1 represents non-padding tokens, 0 represents padding tokens
    """
    embedding_output = self.embed(input_ids=input_ids)
    sequence_output = self.encode(embedding_output, attention_mask=attention_mask)
    sequence_output = self.final_layer_norm(sequence_output)

    # Get the hidden state of the final token.
    last_non_pad_idx = attention_mask.sum(dim=1).long() - 1
    last_token = sequence_output[torch.arange(sequence_output.shape[0]), last_non_pad_idx]

    return {'last_hidden_state': sequence_output, 'last_token': last_token}

  def hidden_state_to_token(self, hidden_state):
    """
    logits: hidden_state times the transposed word embedding (weights are tied)
    """
    ### YOUR CODE HERE
    return torch.matmul(hidden_state, self.word_embedding.weight.transpose(0, 1))

  @classmethod
  def from_pretrained(cls, model='gpt2', d=768, l=12, num_heads=12):
    gpt_model = OpenAIGPT2Model.from_pretrained(model).eval()
    our_model = GPT2Model(GPT2Config(hidden_size=d, num_hidden_layers=l, num_attention_heads=num_heads,
                                     intermediate_size=d * 4)).eval()

    # Load word and positional embeddings.
    our_model.word_embedding.load_state_dict(gpt_model.wte.state_dict())
    our_model.pos_embedding.load_state_dict(gpt_model.wpe.state_dict())

    for ours, theirs in zip(our_model.gpt_layers, gpt_model.h):
      # Remap the Q,K,V weights from a conv1d to 3 linear projections.
      q_w, k_w, v_w = theirs.attn.c_attn.weight.data.T.chunk(3, dim=0)
      q_b, k_b, v_b = theirs.attn.c_attn.bias.data.chunk(3)
      ours.self_attention.query.weight.data, ours.self_attention.query.bias.data = q_w.clone(), q_b.clone()
      ours.self_attention.key.weight.data, ours.self_attention.key.bias.data = k_w.clone(), k_b.clone()
      ours.self_attention.value.weight.data, ours.self_attention.value.bias.data = v_w.clone(), v_b.clone()

      # Remap final dense layer in MHA.
      ours.attention_dense.weight.data = theirs.attn.c_proj.weight.data.T
      ours.attention_dense.bias.data = theirs.attn.c_proj.bias.data

      # Remap attention and mlp layer norms, then the mlp.
      ours.attention_layer_norm.load_state_dict(theirs.ln_1.state_dict())
      ours.out_layer_norm.load_state_dict(theirs.ln_2.state_dict())
      ours.interm_dense.weight.data = theirs.mlp.c_fc.weight.data.T
      ours.interm_dense.bias.data = theirs.mlp.c_fc.bias.data
      ours.out_dense.weight.data = theirs.mlp.c_proj.weight.data.T
      ours.out_dense.bias.data = theirs.mlp.c_proj.bias.data

    our_model.final_layer_norm.load_state_dict(gpt_model.ln_f.state_dict())
    return our_model


if __name__ == '__main__':
  m = GPT2Model.from_pretrained(model='gpt2', **model_size_to_params('gpt2'))
  print(m)
