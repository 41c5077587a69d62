"""Hugging Face as a contender: GPT2ForSequenceClassification (sdpa), torch's fused AdamW, a plain loop.

The loop does the least that trains: no gradient clipping (which its Trainer does by default), and texts tokenised once.
"""

from collections.abc import Sequence

import torch
import transformers
from torch.optim import AdamW
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.workload import Peer, Workload
from data.batching import epoch_order, eval_order


class HuggingFace(Peer):
    """Random batches, padded to their longest text: what its default collator makes."""

    def __init__(self, work: Workload) -> None:
        torch.manual_seed(work.seed)
        self.work = work
        _, self.data = work.dataset()
        shape = work.shape
        config = transformers.GPT2Config(
            vocab_size=shape.vocab_size, n_positions=shape.max_position_embeddings, n_embd=shape.hidden_size,
            n_layer=shape.num_hidden_layers, n_head=shape.num_attention_heads, num_labels=work.files.num_labels,
            pad_token_id=self.data.pad_id, attn_implementation="sdpa", resid_pdrop=shape.hidden_dropout_prob,
            embd_pdrop=shape.hidden_dropout_prob, attn_pdrop=shape.attention_probs_dropout_prob)
        self.model = transformers.GPT2ForSequenceClassification(config).to(work.device)
        self.optimizer = AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def training_order(self) -> list[list[int]]:
        """The batches of an epoch."""
        return epoch_order(self.data.lengths, self.work.batch_size, self.work.seed, 0, bucket=False)

    def logits(self, rows: Sequence[int], labels: bool) -> transformers.modeling_outputs.ModelOutput:
        """The model's output for a batch, with the loss if `labels`."""
        batch = self.data.collate(rows).to(self.work.device)
        with torch.autocast(self.work.device, torch.bfloat16, enabled=self.work.precision == "bfloat16"):
            return self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                              labels=batch.labels if labels else None)

    def train(self, *batches: list[int]) -> float:
        """Train on these batches; the mean loss."""
        self.model.train()
        total = 0.0
        for rows in batches:
            loss = self.logits(rows, labels=True).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.item() * len(rows)
        return total / sum(map(len, batches))

    @torch.no_grad()
    def evaluate(self) -> torch.Tensor:
        """The logits of all texts, in file order, in batches of 8: the defaults."""
        self.model.eval()
        return self.all_logits([range(len(self.data))[i:i + 8] for i in range(0, len(self.data), 8)])

    def all_logits(self, order: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits of these batches, one after another."""
        return torch.cat([self.logits(rows, labels=False).logits.float().cpu() for rows in order])


class GroupedByLength(HuggingFace):
    """The same with texts of like length together, as its group_by_length does."""

    def training_order(self) -> list[list[int]]:
        """The batches of an epoch, by its own function."""
        generator = torch.Generator().manual_seed(self.work.seed)
        texts = get_length_grouped_indices(self.data.lengths, self.work.batch_size, generator=generator)
        return [texts[i:i + self.work.batch_size] for i in range(0, len(texts), self.work.batch_size)]

    @torch.no_grad()
    def evaluate(self) -> torch.Tensor:
        """The logits of all texts, sorted by length, in batches of 8."""
        self.model.eval()
        order = eval_order(self.data.lengths, 8)
        return self.all_logits(order)[torch.tensor([row for rows in order for row in rows]).argsort()]
