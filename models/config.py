"""The shape of a GPT-2, as one frozen dataclass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPT2Config:
    """The shape and the regularisation of a GPT2Model; by default the 124M model of Radford et al. (2019)."""

    vocab_size: int = 50257  # V, number of token ids
    max_position_embeddings: int = 1024  # longest sequence, in tokens
    hidden_size: int = 768  # C, width of the residual stream; nh * hs
    num_hidden_layers: int = 12  # number of transformer blocks
    num_attention_heads: int = 12  # nh; must divide hidden_size
    intermediate_size: int = 0  # width inside the feed-forward half of a block; 0 means GPT-2's 4 * hidden_size
    hidden_dropout_prob: float = 0.1  # on the embeddings and on what each half-block adds to the residual stream
    attention_probs_dropout_prob: float = 0.1  # on the attention weights, after the softmax
    layer_norm_eps: float = 1e-5  # added to the variance inside every LayerNorm
    initializer_range: float = 0.02  # standard deviation of the initial weights
    # Not used here, but read by files written for the course:
    pad_token_id: int | None = None
    name_or_path: str = ""

    def __post_init__(self) -> None:
        if self.intermediate_size == 0:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        for name in ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers",
                     "num_attention_heads", "intermediate_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"GPT2Config.{name} must be a positive integer, not {value!r:.60}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
                raise ValueError(f"GPT2Config.{name} must be a number from 0 to 1, not {value!r:.60}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"GPT2Config.hidden_size ({self.hidden_size}) must be a multiple of "
                             f"num_attention_heads ({self.num_attention_heads})")
