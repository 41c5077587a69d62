"""Hugging Face is a contender: GPT2ForSequenceClassification (sdpa), PyTorch's fused AdamW, a plain loop.

The loop does no more than training needs: it clips no gradients (its Trainer does), and tokenises each text once.
"""

from collections.abc import Sequence

import torch
import transformers
from torch.optim import AdamW
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.workload import Peer, Workload
from data.batching import eval_order


class HuggingFace(Peer):
    """The contender in its default form: random batches, padded to their longest text."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        shape = work.shape
        config = transformers.GPT2Config(
            vocab_size=shape.vocab_size, n_positions=shape.max_position_embeddings, n_embd=shape.hidden_size,
            n_layer=shape.num_hidden_layers, n_head=shape.num_attention_heads, num_labels=work.files.num_labels,
            pad_token_id=self.data.pad_id, attn_implementation="sdpa", resid_pdrop=shape.hidden_dropout_prob,
            embd_pdrop=shape.hidden_dropout_prob, attn_pdrop=shape.attention_probs_dropout_prob)
        self.model = transformers.GPT2ForSequenceClassification(config).to(work.device)
        self.optimizer = AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def output(self, rows: Sequence[int], labels: bool) -> transformers.modeling_outputs.ModelOutput:
        """Return the model's output for a batch, with the loss if `labels`."""
        batch = self.data.collate(rows).to(self.work.device)
        with torch.autocast(self.work.device, torch.bfloat16, enabled=self.work.precision == "bfloat16"):
            return self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                              labels=batch.labels if labels else None)

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        return self.output(rows, labels=True).loss

    @torch.no_grad()
    def logits(self, rows: Sequence[int]) -> torch.Tensor:
        return self.output(rows, labels=False).logits


class GroupedByLength(HuggingFace):
    """The contender with texts of similar length together, as its group_by_length makes them."""

    def training_order(self) -> list[list[int]]:
        """Return the batches of an epoch, made by its own function."""
        generator = torch.Generator().manual_seed(self.work.seed)
        texts = get_length_grouped_indices(self.data.lengths, self.work.batch_size, generator=generator)
        return [texts[i:i + self.work.batch_size] for i in range(0, len(texts), self.work.batch_size)]

    def evaluation_order(self) -> Sequence[Sequence[int]]:
        """Return the batches of an evaluation: of 8 texts, sorted by length."""
        return eval_order(self.data.lengths, 8)
