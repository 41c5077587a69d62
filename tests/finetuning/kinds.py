"""Classifiers as students write them: from the course's contract alone, some with a mistake."""

import torch
from torch import Tensor, nn

from models.gpt2 import GPT2Model


class Plain(nn.Module):
    """Freezes the backbone in last-linear-layer mode, as the course's starter does, and has no train() of its own."""

    def __init__(self, config):
        super().__init__()
        self.gpt = GPT2Model.from_pretrained()
        for parameter in self.gpt.parameters():
            parameter.requires_grad = config.fine_tune_mode == "full-model"
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.dropout(self.gpt(input_ids, attention_mask)["last_token"]))


class Mean(Plain):
    """Reads the mean over all tokens; notes in which mode the backbone was, call by call."""

    seen: list[bool] = []  # noqa: RUF012

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            Mean.seen.append(any(module.training for module in self.gpt.modules()))
        hidden = self.gpt(input_ids, attention_mask)["last_hidden_state"]
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return self.linear(self.dropout((hidden * mask).sum(dim=1) / mask.sum(dim=1)))


class LastPosition(Plain):
    """Reads the last position, padding or not: a mistake, but one that is computed as it is written."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.dropout(self.gpt(input_ids, attention_mask)["last_hidden_state"][:, -1]))


class Forgetful(Plain):
    """Trains the backbone in both modes."""

    def __init__(self, config):
        super().__init__(config)
        self.gpt.requires_grad_(True)


class Apart(Plain):
    """Keeps the backbone where PyTorch does not see it."""

    def __init__(self, config):
        super().__init__(config)
        self.backbone = [self.gpt]
        del self.gpt

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.dropout(self.backbone[0](input_ids, attention_mask)["last_token"]))
