from torch import nn

from models.gpt2 import GPT2Model


class GPT2SentimentClassifier(nn.Module):
  def __init__(self, config):
    super().__init__()
    self.gpt = GPT2Model.from_pretrained().requires_grad_(config.fine_tune_mode != 'last-linear-layer')
    self.head = nn.Sequential(nn.Dropout(config.hidden_dropout_prob), nn.Linear(config.hidden_size, config.num_labels))

  def forward(self, input_ids, attention_mask):
    return self.head(self.gpt(input_ids, attention_mask)['last_token'])
