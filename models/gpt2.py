"""GPT-2 (Radford et al. 2019): token and position embeddings, a stack of blocks, a final LayerNorm.

Shapes: B sequences, T tokens, C channels, V tokens in the vocabulary.
"""

import dataclasses

import torch
from torch import Tensor, nn

from models import pretrained
from models.config import GPT2Config
from modules.gpt2_layer import GPT2Layer


class GPT2Model(nn.Module):
    """Token ids in, one contextual vector for each token out.

    Sequences are padded on the right. Positions count from 0 at the left, whatever the mask.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        C = config.hidden_size
        # No padding_idx: id 0 is a real token ("!"), and its embedding must learn like any other.
        self.word_embedding = nn.Embedding(config.vocab_size, C)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, C)
        self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gpt_layers = nn.ModuleList(GPT2Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw weights from Normal(0, initializer_range) and set biases to 0; LayerNorm keeps gain 1 and bias 0.

        What is added to the residual stream is divided by sqrt(2 * layers), as in GPT-2: so the sum keeps its scale.
        """
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for layer in self.gpt_layers:
            for dense in (layer.attention_dense, layer.out_dense):
                nn.init.normal_(dense.weight, std=std * (2 * len(self.gpt_layers)) ** -0.5)

    @classmethod
    def from_pretrained(cls, model: str = "gpt2", d: int | None = None, l: int | None = None,  # noqa: E741
                        num_heads: int | None = None, *, revision: str | None = None,
                        **overrides) -> "GPT2Model":
        """Build the model of a checkpoint, with its weights, on the CPU and in eval mode. Draws no random numbers.

        model: "gpt2-tiny" (bundled), a name on the Hugging Face hub ("gpt2", "gpt2-medium", ...) or a folder.
        revision: branch, tag or commit on the hub. d, l, num_heads: the hidden size, layers and heads that the
        caller expects; they are only checked. overrides: fields of GPT2Config that change no shape, such as
        hidden_dropout_prob. Raises PretrainedError where the checkpoint cannot be read, or has other sizes than
        expected.
        """
        folder = pretrained.resolve(model, revision)
        config = pretrained.read_config(folder)
        for field, value in (("hidden_size", d), ("num_hidden_layers", l), ("num_attention_heads", num_heads)):
            if value is not None and value != getattr(config, field):
                raise pretrained.PretrainedError(f"{model} has {field} {getattr(config, field)}, not {value}")
        return pretrained.load(cls, folder, dataclasses.replace(config, **overrides))

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T] -> [B, T, C]: token embedding + position embedding, then dropout."""
        T, longest = input_ids.shape[1], self.pos_embedding.num_embeddings
        if T > longest:
            raise ValueError(f"a sequence of {T} tokens is too long: this model has {longest} positions; cut the text")
        # BEGIN SOLUTION
        positions = torch.arange(T, device=input_ids.device)
        return self.embed_dropout(self.word_embedding(input_ids) + self.pos_embedding(positions))
        # END SOLUTION

    def encode(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the blocks: hidden_states [B, T, C], attention_mask [B, T] of 1 (token) and 0 (padding) -> [B, T, C].

        The blocks get the mask as [B, 1, 1, T]: 0 for a token, a very large negative number for padding. The final norm
        comes later, in forward.
        """
        # BEGIN SOLUTION
        # Added to the scores, so 0 for a token and the most negative number for padding. Not -inf: the softmax of a
        # row that sees nothing but -inf is NaN.
        padding = attention_mask[:, None, None, :] == 0  # [B, 1, 1, T]
        mask = padding.to(hidden_states.dtype) * torch.finfo(hidden_states.dtype).min
        for layer in self.gpt_layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states
        # END SOLUTION

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, T] -> {'last_hidden_state': [B, T, C], 'last_token': [B, C]}.

        last_hidden_state comes after the final norm; last_token is its vector at each row's last token that is not
        padding. ValueError for a row that starts with padding (left padding, or nothing but padding): its positions
        would be wrong.
        """
        if attention_mask.shape != input_ids.shape or input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ValueError("input_ids and attention_mask must both be [B, T] with T of at least 1, not "
                             f"{list(input_ids.shape)} and {list(attention_mask.shape)}")
        if not attention_mask[:, 0].all():
            rows = (attention_mask[:, 0] == 0).nonzero().flatten().tolist()
            raise ValueError(f"rows {rows} of attention_mask start with padding: pad on the right, and give "
                             "every row at least one token")
        # BEGIN SOLUTION
        hidden_states = self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))

        # The largest position whose mask is not 0. In a mask with holes, sum - 1 would be too small.
        B, T = input_ids.shape
        last = (attention_mask.ne(0) * torch.arange(T, device=input_ids.device)).argmax(dim=1)  # [B]
        last_token = hidden_states[torch.arange(B, device=input_ids.device), last]
        return {"last_hidden_state": hidden_states, "last_token": last_token}
        # END SOLUTION

    def hidden_state_to_token(self, hidden_state: Tensor) -> Tensor:
        """[..., C] -> logits [..., V]: the output layer shares the token embedding's weights."""
        # BEGIN SOLUTION
        return hidden_state @ self.word_embedding.weight.T
        # END SOLUTION
