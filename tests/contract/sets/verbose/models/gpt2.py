"""The GPT-2 model."""
from typing import Dict

import torch
from torch import Tensor, nn
from transformers import GPT2Model as HuggingFaceGPT2Model

from config import GPT2Config
from models.base_gpt import GPTPreTrainedModel
from modules.gpt2_layer import GPT2Layer

# Hugging Face name -> our name, for modules which are Conv1D there and Linear here.
CONV1D_TO_LINEAR: Dict[str, str] = {
    "attn.c_proj": "attention_dense",
    "mlp.c_fc": "interm_dense",
    "mlp.c_proj": "out_dense",
}
LAYER_NORMS: Dict[str, str] = {
    "ln_1": "attention_layer_norm",
    "ln_2": "out_layer_norm",
}


def make_additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, time] with ones and zeros -> [batch, 1, 1, time] with 0 and -10000."""
    expanded_mask = attention_mask.unsqueeze(1).unsqueeze(2).to(dtype)
    return (1.0 - expanded_mask) * -10000.0


def find_last_token_index(attention_mask: Tensor) -> Tensor:
    """Index of the last token which is not padding, for each row."""
    number_of_tokens = attention_mask.long().sum(dim=-1)
    return torch.clamp(number_of_tokens - 1, min=0)


class GPT2Model(GPTPreTrainedModel):
    def __init__(self, config) -> None:
        super().__init__(config)
        self.config = config
        self.hidden_size: int = config.hidden_size

        self.word_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)

        layers = []
        for _ in range(config.num_hidden_layers):
            layers.append(GPT2Layer(config))
        self.gpt_layers = nn.ModuleList(layers)

        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.init_weights()

    def embed(self, input_ids: Tensor) -> Tensor:
        batch_size, sequence_length = input_ids.shape
        position_ids = torch.arange(0, sequence_length, dtype=torch.long, device=input_ids.device)
        position_ids = position_ids.unsqueeze(0).expand(batch_size, sequence_length)

        token_embeddings = self.word_embedding(input_ids)
        position_embeddings = self.pos_embedding(position_ids)
        embeddings = token_embeddings + position_embeddings
        embeddings = self.embed_dropout(embeddings)
        return embeddings

    def encode(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        additive_mask = make_additive_mask(attention_mask, hidden_states.dtype)
        current_hidden_states = hidden_states
        for gpt_layer in self.gpt_layers:
            current_hidden_states = gpt_layer(current_hidden_states, additive_mask)
        return current_hidden_states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Dict[str, Tensor]:
        embeddings = self.embed(input_ids)
        encoded = self.encode(embeddings, attention_mask)
        last_hidden_state = self.final_layer_norm(encoded)

        last_token_index = find_last_token_index(attention_mask)
        gather_index = last_token_index.view(-1, 1, 1).expand(-1, 1, last_hidden_state.size(-1))
        last_token = torch.gather(last_hidden_state, dim=1, index=gather_index).squeeze(1)

        outputs: Dict[str, Tensor] = {
            "last_hidden_state": last_hidden_state,
            "last_token": last_token,
        }
        return outputs

    def hidden_state_to_token(self, hidden_state: Tensor) -> Tensor:
        embedding_matrix = self.word_embedding.weight  # [vocabulary, hidden]
        logits = torch.einsum("...d,vd->...v", hidden_state, embedding_matrix)
        return logits

    @classmethod
    def from_pretrained(cls, model: str = "gpt2", d: int = 768, l: int = 12, num_heads: int = 12) -> "GPT2Model":
        hugging_face_model = HuggingFaceGPT2Model.from_pretrained(model)
        weights = hugging_face_model.state_dict()

        config = GPT2Config(
            hidden_size=d,
            num_hidden_layers=l,
            num_attention_heads=num_heads,
            intermediate_size=4 * d,
        )
        our_model = cls(config)

        with torch.no_grad():
            our_model.word_embedding.weight.copy_(weights["wte.weight"])
            our_model.pos_embedding.weight.copy_(weights["wpe.weight"])
            our_model.final_layer_norm.weight.copy_(weights["ln_f.weight"])
            our_model.final_layer_norm.bias.copy_(weights["ln_f.bias"])

            for layer_index, layer in enumerate(our_model.gpt_layers):
                prefix = f"h.{layer_index}."

                for part_index, part_name in enumerate(["query", "key", "value"]):
                    linear = getattr(layer.self_attention, part_name)
                    start, end = part_index * d, (part_index + 1) * d
                    linear.weight.copy_(weights[prefix + "attn.c_attn.weight"][:, start:end].t())
                    linear.bias.copy_(weights[prefix + "attn.c_attn.bias"][start:end])

                for their_name, our_name in CONV1D_TO_LINEAR.items():
                    linear = getattr(layer, our_name)
                    linear.weight.copy_(weights[prefix + their_name + ".weight"].t())
                    linear.bias.copy_(weights[prefix + their_name + ".bias"])

                for their_name, our_name in LAYER_NORMS.items():
                    layer_norm = getattr(layer, our_name)
                    layer_norm.weight.copy_(weights[prefix + their_name + ".weight"])
                    layer_norm.bias.copy_(weights[prefix + their_name + ".bias"])

        our_model.eval()
        return our_model
