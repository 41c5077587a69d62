"""GPT-2 (Radford et al. 2019): token and position embeddings, a stack of blocks, a final LayerNorm."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import pretrained
from models.config import GPT2Config
from modules.dropout import Dropout
from modules.gpt2_layer import GPT2Layer


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T] of 1 (token) and 0 (padding) -> [B, 1, 1, T] of 0 and the most negative number of dtype.

    Finite, not -inf: a row that could see nothing would become 0/0 = NaN in the softmax.
    """
    padding = attention_mask[:, None, None, :] == 0
    return padding.to(dtype) * torch.finfo(dtype).min


class GPT2Model(nn.Module):
    """Token ids in, one contextual vector per token out.

    Sequences are padded on the right. Positions count from 0 at the left, whatever the mask.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        C = config.hidden_size
        # No padding_idx: id 0 is a real token ("!"), and its embedding must learn like any other.
        self.word_embedding = nn.Embedding(config.vocab_size, C)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, C)
        self.embed_dropout = Dropout(config.hidden_dropout_prob)
        self.gpt_layers = nn.ModuleList(GPT2Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False  # True recomputes blocks in backward: less memory, more work
        self.apply(self.init_weights)
        self.scale_residual_weights()

    def init_weights(self, module: nn.Module) -> None:
        """Normal(0, initializer_range) weights, zero biases; LayerNorm keeps gain 1 and bias 0."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def scale_residual_weights(self) -> None:
        """Divide by sqrt(number of half-blocks), as GPT-2 does: the sum of what they add keeps its scale."""
        scale = (2 * self.config.num_hidden_layers) ** -0.5
        for layer in self.gpt_layers:
            for dense in (layer.attention_dense, layer.out_dense):
                nn.init.normal_(dense.weight, std=self.config.initializer_range * scale)

    @classmethod
    def from_pretrained(cls, model: str = "gpt2", d: int | None = None, l: int | None = None,  # noqa: E741
                        num_heads: int | None = None, *, revision: str | None = None,
                        **overrides) -> "GPT2Model":
        """Build the model of a checkpoint, with its weights, on the CPU and in eval mode.

        model: "gpt2-tiny" (bundled), a name on the Hugging Face hub ("gpt2", "gpt2-medium", ...) or a folder.
        revision: branch, tag or commit on the hub. d, l, num_heads: the hidden size, layers and heads that
        the caller expects; they choose nothing. overrides: fields of GPT2Config that change no shape, such as
        hidden_dropout_prob. Draws no random numbers. PretrainedError where the checkpoint cannot be had or
        read, or is not what the caller expects.
        """
        folder = pretrained.resolve(model, revision)
        config = pretrained.read_config(folder)
        asked = {"hidden_size": d, "num_hidden_layers": l, "num_attention_heads": num_heads}
        for field, value in asked.items():
            if value is not None and value != getattr(config, field):
                raise pretrained.PretrainedError(f"{model} has {field} {getattr(config, field)}, not {value}")
        pretrained.check_weights(folder, config)  # before memory is taken for what is not there
        with pretrained.without_init():
            gpt = cls(dataclasses.replace(config, **overrides))
        pretrained.load_weights(gpt, folder)
        return gpt.eval()

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T] -> [B, T, C]: token embedding + position embedding, then dropout."""
        T = input_ids.shape[1]
        if T > self.config.max_position_embeddings:
            raise ValueError(f"a sequence of {T} tokens is too long: this model has "
                             f"{self.config.max_position_embeddings} positions; cut the text (--max_length)")
        positions = torch.arange(T, device=input_ids.device)
        return self.embed_dropout(self.word_embedding(input_ids) + self.pos_embedding(positions))

    def encode(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The blocks: hidden_states [B, T, C], attention_mask [B, T] of 0/1 (None: no padding) to [B, T, C]"""
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden_states.dtype)
        for layer in self.gpt_layers:
            hidden_states = self.run_layer(layer, hidden_states, mask)
        return hidden_states

    def run_layer(self, layer: GPT2Layer, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """One block, hidden_states [B, T, C] to [B, T, C], recomputed in the backward pass if that is wanted."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, hidden_states, mask, use_reentrant=False)
        return layer(hidden_states, mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, T] -> {'last_hidden_state': [B, T, C], 'last_token': [B, C]}.

        last_token is the vector of each row's last token that is not padding. ValueError for a row that
        starts with padding (left padding, or nothing but padding): its positions would be wrong.
        """
        self.check_inputs(input_ids, attention_mask)
        hidden_states = self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))
        rows, last = self.last_positions(attention_mask)
        return {"last_hidden_state": hidden_states, "last_token": hidden_states[rows, last]}

    @staticmethod
    def check_inputs(input_ids: Tensor, attention_mask: Tensor) -> None:
        """ValueError unless both are [B, T] with T of at least 1, and every row starts with a token."""
        if attention_mask.shape != input_ids.shape or input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ValueError("input_ids and attention_mask must both be [B, T] with T of at least 1, not "
                             f"{list(input_ids.shape)} and {list(attention_mask.shape)}")
        if not attention_mask[:, 0].all():
            rows = (attention_mask[:, 0] == 0).nonzero().flatten().tolist()
            raise ValueError(f"rows {rows} of attention_mask start with padding: pad on the right, and give "
                             "every row at least one token")

    @staticmethod
    def last_positions(attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """attention_mask [B, T] -> (0 .. B-1, where each row's last token is): an index into [B, T, ...]."""
        B, T = attention_mask.shape
        positions = torch.arange(T, device=attention_mask.device)
        last = (attention_mask.ne(0) * positions).argmax(dim=1)  # [B]; a hole would shift mask.sum() - 1
        return torch.arange(B, device=attention_mask.device), last

    def hidden_state_to_token(self, hidden_state: Tensor) -> Tensor:
        """[..., C] -> logits [..., V]: the output layer shares the token embedding's weights."""
        return hidden_state @ self.word_embedding.weight.T
