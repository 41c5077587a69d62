from torch import nn

from models.gpt2 import GPT2Model


class GPT2SentimentClassifier(nn.Module):
    """GPT-2 and a two-layer head on the last token."""

    def __init__(self, config):
        super().__init__()
        if config.fine_tune_mode not in ("last-linear-layer", "full-model"):
            raise ValueError(f"unknown fine_tune_mode {config.fine_tune_mode!r}")

        self.backbone = GPT2Model.from_pretrained()
        self.backbone.requires_grad_(config.fine_tune_mode == "full-model")

        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Dropout(config.hidden_dropout_prob),
            nn.Linear(config.hidden_size, config.num_labels),
        )

    def forward(self, input_ids, attention_mask):
        return self.head(self.backbone(input_ids, attention_mask)["last_token"])
