import torch
from torch import nn

from models.gpt2 import GPT2Model

TQDM_DISABLE = False


class GPT2SentimentClassifier(torch.nn.Module):
  '''
  Sentiment classification: GPT-2 encodes the sentence, a linear layer on the last token's
  hidden state gives one logit per class.
  '''

  def __init__(self, config):
    super(GPT2SentimentClassifier, self).__init__()
    self.num_labels = config.num_labels
    self.gpt = GPT2Model.from_pretrained()

    # Pretrain mode does not require updating GPT parameters.
    assert config.fine_tune_mode in ["last-linear-layer", "full-model"]
    for param in self.gpt.parameters():
      param.requires_grad = config.fine_tune_mode == 'full-model'

    ### YOUR CODE HERE
    self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
    self.sentiment_classifier = torch.nn.Linear(config.hidden_size, self.num_labels)

  def forward(self, input_ids, attention_mask):
    '''Takes a batch of sentences and returns logits for sentiment classes'''
    ### YOUR CODE HERE
    last_token = self.gpt(input_ids=input_ids, attention_mask=attention_mask)['last_token']
    return self.sentiment_classifier(self.dropout(last_token))
