import argparse
import csv
import os
import random
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import GPT2Tokenizer

from models.gpt2 import GPT2Model
from optimizer import AdamW

TQDM_DISABLE = False


# Fix the random seed.
def seed_everything(seed=11711):
  random.seed(seed)
  np.random.seed(seed)
  torch.manual_seed(seed)
  torch.cuda.manual_seed_all(seed)
  torch.backends.cudnn.benchmark = False
  torch.backends.cudnn.deterministic = True


class GPT2SentimentClassifier(torch.nn.Module):
  '''Dropout and a linear layer on top of the last token of GPT-2.'''

  def __init__(self, config):
    super(GPT2SentimentClassifier, self).__init__()
    self.num_labels = config.num_labels
    self.gpt = GPT2Model.from_pretrained()

    assert config.fine_tune_mode in ["last-linear-layer", "full-model"]
    for param in self.gpt.parameters():
      if config.fine_tune_mode == 'last-linear-layer':
        param.requires_grad = False
      elif config.fine_tune_mode == 'full-model':
        param.requires_grad = True

    self.dropout = nn.Dropout(config.hidden_dropout_prob)
    self.proj = nn.Linear(config.hidden_size, config.num_labels)

  def forward(self, input_ids, attention_mask):
    hidden = self.gpt(input_ids, attention_mask)['last_token']
    hidden = self.dropout(hidden)
    return self.proj(hidden)


def make_tokenizer():
  tokenizer = GPT2Tokenizer.from_pretrained('gpt2')
  tokenizer.pad_token = tokenizer.eos_token
  return tokenizer


class SentimentDataset(Dataset):
  '''(sentence, label, id) triples'''

  def __init__(self, dataset, args):
    self.dataset = dataset
    self.p = args
    self.tokenizer = make_tokenizer()

  def __len__(self):
    return len(self.dataset)

  def __getitem__(self, idx):
    return self.dataset[idx]

  def pad_data(self, data):
    sents = [x[0] for x in data]
    labels = [x[1] for x in data]
    sent_ids = [x[2] for x in data]
    encoding = self.tokenizer(sents, return_tensors='pt', padding=True, truncation=True)
    return encoding['input_ids'], encoding['attention_mask'], torch.tensor(labels), sents, sent_ids

  def collate_fn(self, all_data):
    token_ids, attention_mask, labels, sents, sent_ids = self.pad_data(all_data)
    return {'token_ids': token_ids, 'attention_mask': attention_mask, 'labels': labels,
            'sents': sents, 'sent_ids': sent_ids}


class SentimentTestDataset(Dataset):
  '''(sentence, id) pairs, no labels'''

  def __init__(self, dataset, args):
    self.dataset = dataset
    self.p = args
    self.tokenizer = make_tokenizer()

  def __len__(self):
    return len(self.dataset)

  def __getitem__(self, idx):
    return self.dataset[idx]

  def collate_fn(self, all_data):
    sents = [x[0] for x in all_data]
    encoding = self.tokenizer(sents, return_tensors='pt', padding=True, truncation=True)
    return {'token_ids': encoding['input_ids'], 'attention_mask': encoding['attention_mask'],
            'sents': sents, 'sent_ids': [x[1] for x in all_data]}


def load_data(filename, flag='train'):
  '''
  train: returns the data and the number of labels
  valid: returns the data
  test:  returns sentences and ids only
  '''
  num_labels = set()
  data = []
  with open(filename, 'r', encoding='utf-8') as fp:
    for record in csv.DictReader(fp, delimiter='\t'):
      sent = record['sentence'].lower().strip()
      sent_id = record['id'].lower().strip()
      if flag == 'test':
        data.append((sent, sent_id))
      else:
        label = int(record['sentiment'].strip())
        num_labels.add(label)
        data.append((sent, label, sent_id))
  print(f"load {len(data)} data from {filename}")
  if flag == 'train':
    return data, len(num_labels)
  return data


# Evaluate on labelled data.
@torch.no_grad()
def model_eval(dataloader, model, device):
  model.eval()
  y_true, y_pred, sents, sent_ids = [], [], [], []
  for batch in tqdm(dataloader, desc='eval', disable=TQDM_DISABLE):
    logits = model(batch['token_ids'].to(device), batch['attention_mask'].to(device))
    y_pred.extend(logits.argmax(dim=1).cpu().tolist())
    y_true.extend(batch['labels'].tolist())
    sents.extend(batch['sents'])
    sent_ids.extend(batch['sent_ids'])
  f1 = f1_score(y_true, y_pred, average='macro')
  acc = accuracy_score(y_true, y_pred)
  return acc, f1, y_pred, y_true, sents, sent_ids


@torch.no_grad()
def model_test_eval(dataloader, model, device):
  model.eval()
  y_pred, sents, sent_ids = [], [], []
  for batch in tqdm(dataloader, desc='test', disable=TQDM_DISABLE):
    logits = model(batch['token_ids'].to(device), batch['attention_mask'].to(device))
    y_pred.extend(logits.argmax(dim=1).cpu().tolist())
    sents.extend(batch['sents'])
    sent_ids.extend(batch['sent_ids'])
  return y_pred, sents, sent_ids


def save_model(model, optimizer, args, config, filepath):
  save_info = {
    'model': model.state_dict(),
    'optim': optimizer.state_dict(),
    'args': args,
    'model_config': config,
    'system_rng': random.getstate(),
    'numpy_rng': np.random.get_state(),
    'torch_rng': torch.random.get_rng_state(),
  }
  torch.save(save_info, filepath)
  print(f"save the model to {filepath}")


def train(args):
  device = torch.device('cuda') if args.use_gpu else torch.device('cpu')

  train_data, num_labels = load_data(args.train, 'train')
  dev_data = load_data(args.dev, 'valid')
  train_dataset = SentimentDataset(train_data, args)
  dev_dataset = SentimentDataset(dev_data, args)
  train_dataloader = DataLoader(train_dataset, shuffle=True, batch_size=args.batch_size,
                                collate_fn=train_dataset.collate_fn)
  dev_dataloader = DataLoader(dev_dataset, shuffle=False, batch_size=args.batch_size,
                              collate_fn=dev_dataset.collate_fn)

  config = SimpleNamespace(hidden_dropout_prob=args.hidden_dropout_prob, num_labels=num_labels, hidden_size=768,
                           data_dir='.', fine_tune_mode=args.fine_tune_mode)
  model = GPT2SentimentClassifier(config)
  model = model.to(device)
  optimizer = AdamW(model.parameters(), lr=args.lr)
  best_dev_acc = -1.0

  for epoch in range(args.epochs):
    model.train()
    train_loss = 0.0
    num_batches = 0
    for batch in tqdm(train_dataloader, desc=f'train-{epoch}', disable=TQDM_DISABLE):
      b_ids = batch['token_ids'].to(device)
      b_mask = batch['attention_mask'].to(device)
      b_labels = batch['labels'].to(device)

      optimizer.zero_grad()
      logits = model(b_ids, b_mask)
      loss = F.cross_entropy(logits, b_labels.view(-1))
      loss.backward()
      optimizer.step()
      train_loss += loss.item()
      num_batches += 1

    train_loss = train_loss / num_batches
    dev_acc, dev_f1, *_ = model_eval(dev_dataloader, model, device)
    if dev_acc > best_dev_acc:
      best_dev_acc = dev_acc
      save_model(model, optimizer, args, config, args.filepath)
    print(f"Epoch {epoch}: train loss :: {train_loss :.3f}, dev acc :: {dev_acc :.3f}, dev f1 :: {dev_f1 :.3f}")


def write_predictions(path, sent_ids, preds):
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "w+") as f:
    f.write("id \t Predicted_Sentiment \n")
    for sent_id, pred in zip(sent_ids, preds):
      f.write(f"{sent_id}, {pred} \n")


def test(args):
  device = torch.device('cuda') if args.use_gpu else torch.device('cpu')
  # weights_only=False: the checkpoint holds a pickled namespace (our own file)
  saved = torch.load(args.filepath, map_location=device, weights_only=False)
  config = saved['model_config']
  model = GPT2SentimentClassifier(config)
  model.load_state_dict(saved['model'])
  model = model.to(device)
  print(f"load model from {args.filepath}")

  dev_dataset = SentimentDataset(load_data(args.dev, 'valid'), args)
  dev_dataloader = DataLoader(dev_dataset, shuffle=False, batch_size=args.batch_size,
                              collate_fn=dev_dataset.collate_fn)
  test_dataset = SentimentTestDataset(load_data(args.test, 'test'), args)
  test_dataloader = DataLoader(test_dataset, shuffle=False, batch_size=args.batch_size,
                               collate_fn=test_dataset.collate_fn)

  dev_acc, dev_f1, dev_pred, _, _, dev_sent_ids = model_eval(dev_dataloader, model, device)
  print(f"dev acc :: {dev_acc :.3f}")
  test_pred, _, test_sent_ids = model_test_eval(test_dataloader, model, device)
  write_predictions(args.dev_out, dev_sent_ids, dev_pred)
  write_predictions(args.test_out, test_sent_ids, test_pred)
  print("DONE")


def get_args():
  parser = argparse.ArgumentParser()
  parser.add_argument("--seed", type=int, default=11711)
  parser.add_argument("--epochs", type=int, default=10)
  parser.add_argument("--fine-tune-mode", "--fine_tune_mode", type=str, default="last-linear-layer",
                      choices=("last-linear-layer", "full-model"),
                      help="last-linear-layer: GPT-2 is frozen; full-model: GPT-2 is updated as well")
  parser.add_argument("--use_gpu", "--use-gpu", action='store_true')
  parser.add_argument("--batch_size", "--batch-size", type=int, default=8, help="sst: 64, cfimdb: 8 fits a 12GB GPU")
  parser.add_argument("--hidden_dropout_prob", "--hidden-dropout-prob", type=float, default=0.3)
  parser.add_argument("--lr", type=float, default=1e-3, help="1e-3 for last-linear-layer, 1e-5 for full-model")
  return parser.parse_args()


def run(args, name, batch_size):
  data, mode = name.lower(), args.fine_tune_mode
  print(f'Training Sentiment Classifier on {name}...')
  config = SimpleNamespace(
    filepath=f'{data}-classifier.pt', lr=args.lr, use_gpu=args.use_gpu, epochs=args.epochs,
    batch_size=batch_size, hidden_dropout_prob=args.hidden_dropout_prob, fine_tune_mode=mode,
    train=f'data/ids-{data}-train.csv', dev=f'data/ids-{data}-dev.csv', test=f'data/ids-{data}-test-student.csv',
    dev_out=f'predictions/{mode}-{data}-dev-out.csv', test_out=f'predictions/{mode}-{data}-test-out.csv')
  train(config)
  print(f'Evaluating on {name}...')
  test(config)


if __name__ == "__main__":
  args = get_args()
  seed_everything(args.seed)
  run(args, 'SST', args.batch_size)
  run(args, 'CFIMDB', 8)
