import torch
from torch import nn

from models.gpt2 import GPT2Model


class GPT2SentimentClassifier(torch.nn.Module):
    '''
    Predicts the sentiment of a sentence from the hidden state of its last token.
    '''

    def __init__(self, config):
        super(GPT2SentimentClassifier, self).__init__()
        self.num_labels = config.num_labels
        self.gpt = GPT2Model.from_pretrained()

        # The pretrained weights are only updated in full-model mode.
        assert config.fine_tune_mode in ["last-linear-layer", "full-model"]
        for param in self.gpt.parameters():
            if config.fine_tune_mode == 'last-linear-layer':
                param.requires_grad = False
            elif config.fine_tune_mode == 'full-model':
                param.requires_grad = True

        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask):
        outputs = self.gpt(input_ids, attention_mask)
        pooled = outputs['last_token']
        pooled = self.dropout(pooled)
        logits = self.classifier(pooled)
        return logits
