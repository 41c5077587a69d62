"""Fine-tune GPT-2 for sentence classification, and show how good the result is.

    ./setup.sh classifier.py --quick                       the bundled gpt2-tiny on the bundled samples; no download
    ./setup.sh classifier.py                               the course: GPT-2 124M, frozen, on SST and then CFIMDB
    ./setup.sh classifier.py --fine-tune-mode full-model   the same, with every weight trained
    ./setup.sh classifier.py --train a.csv --dev b.csv --num-labels 3 --model models/gpt2-tiny      your own texts

Writes runs/TASK-MODE/ (configuration, log, checkpoints), predictions/, and a closing table.
"""

from finetuning.settings import read_settings

# Before PyTorch is imported, so that --help, a wrong flag and a missing file answer at once.
settings = read_settings(__doc__) if __name__ == "__main__" else None

from torch import Tensor, nn

from models.gpt2 import GPT2Model


class GPT2SentimentClassifier(nn.Module):
    """GPT-2 with a linear head on the vector of the last token.

    In last-linear-layer mode GPT-2 is frozen: it gets no gradients, and stays in eval mode, so that a text's vector
    never changes. In full-model mode everything is trained.
    """

    def __init__(self, config):
        """Make self.gpt, self.frozen (whether GPT-2 gets no gradients) and the head: dropout, then a linear layer.

        config: num_labels, hidden_size, hidden_dropout_prob, fine_tune_mode. self.gpt is
        GPT2Model.from_pretrained("gpt2"); a run with another --model answers this call with that one.
        """
        super().__init__()
        if config.fine_tune_mode not in ("last-linear-layer", "full-model"):
            raise ValueError(f"fine_tune_mode must be last-linear-layer or full-model, not {config.fine_tune_mode!r}")
        # BEGIN SOLUTION
        self.frozen = config.fine_tune_mode == "last-linear-layer"
        self.gpt = GPT2Model.from_pretrained("gpt2")
        self.gpt.requires_grad_(not self.frozen)
        self.head = nn.Sequential(nn.Dropout(config.hidden_dropout_prob),
                                  nn.Linear(config.hidden_size, config.num_labels))
        self.train()
        # END SOLUTION

    def train(self, mode: bool = True) -> "GPT2SentimentClassifier":
        """nn.Module.train, except that a frozen GPT-2 stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.gpt.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask [B, T] -> logits [B, num_labels]"""
        # BEGIN SOLUTION
        return self.head(self.gpt(input_ids, attention_mask)["last_token"])
        # END SOLUTION


if __name__ == "__main__":
    from finetuning.run import main

    main(settings, GPT2SentimentClassifier)
