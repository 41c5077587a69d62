"""Sentiment classification with GPT-2."""
from typing import Any, Dict

import torch
from torch import Tensor, nn

from models.gpt2 import GPT2Model

TRAINABLE_BACKBONE: Dict[str, bool] = {
    "last-linear-layer": False,
    "full-model": True,
}


def set_requires_grad(module: nn.Module, value: bool) -> None:
    for _, parameter in module.named_parameters():
        parameter.requires_grad = value


class GPT2SentimentClassifier(torch.nn.Module):
    """Puts dropout and one linear layer on the hidden state of the last token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.fine_tune_mode not in TRAINABLE_BACKBONE:
            raise ValueError("fine_tune_mode must be one of " + ", ".join(TRAINABLE_BACKBONE))

        self.num_labels: int = config.num_labels
        self.gpt2_backbone = GPT2Model.from_pretrained()
        set_requires_grad(self.gpt2_backbone, TRAINABLE_BACKBONE[config.fine_tune_mode])

        self.classification_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classification_layer = nn.Linear(config.hidden_size, config.num_labels)
        nn.init.normal_(self.classification_layer.weight, std=0.02)
        nn.init.zeros_(self.classification_layer.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        gpt_output: Dict[str, Tensor] = self.gpt2_backbone(input_ids, attention_mask)
        last_token: Tensor = gpt_output["last_token"]
        last_token = self.classification_dropout(last_token)
        logits: Tensor = self.classification_layer(last_token)
        return logits
