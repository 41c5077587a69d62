"""For files written on the course's starter, which say `from models.base_gpt import GPTPreTrainedModel`."""

import torch
from torch import nn


class GPTPreTrainedModel(nn.Module):
    """Base of the course's GPT2Model: keeps its config and draws its first weights."""

    def __init__(self, config, *inputs, **kwargs):
        """config: initializer_range, and name_or_path. The other arguments are ignored, as in the starter."""
        super().__init__()
        self.config = config
        self.name_or_path = config.name_or_path

    def init_weights(self) -> None:
        """Draw the weights of every module inside this one."""
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, initializer_range) weights and zero biases; gain 1 and bias 0 for LayerNorm."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype
