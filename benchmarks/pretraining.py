"""Pretraining's contenders: what pretrain.py does in a step, and a plain loop around GPT2LMHeadModel.

Both get the same blocks of tokens, in the lengths and the order in which pretrain.py takes them, and clip the gradient.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from benchmarks.workload import Workload
from data.tokenizer import Tokenizer
from engine.gpt2 import FastGPT2
from finetuning.settings import TINY
from pretraining.corpus import Corpus, encode
from pretraining.objectives import LanguageModel, pretraining
from pretraining.run import choose_engine, make_backbone, parameter_groups
from pretraining.settings import Settings
from training.loop import Feed, TrainState, fit
from training.machine import Machine
from training.memory import keep_freed_memory


class Contestant:
    """Both share the settings and the corpus: the training texts of the workload's task, in gpt2-tiny's tokens."""

    def __init__(self, work: Workload) -> None:
        torch.manual_seed(work.seed)
        self.machine, shape = Machine.choose(work.device, work.precision), work.shape
        self.tokenizer = Tokenizer.load(TINY)
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.txt")
            text.write_text("\n".join(" ".join(example.text.split()) for example in work.files.read("train")),
                            encoding="utf-8")
            self.settings = Settings(
                (text,), hidden_size=shape.hidden_size, num_hidden_layers=shape.num_hidden_layers,
                num_attention_heads=shape.num_attention_heads, max_position_embeddings=shape.max_position_embeddings)
            files = encode((text,), self.tokenizer, Path(folder), T=shape.max_position_embeddings)
            self.corpus = Corpus(files[0], shape.max_position_embeddings)
            self.corpus.ids = np.array(self.corpus.ids)  # into memory: the file goes away

    def batches(self, count: int, batch_tokens: int = 2048) -> list[list[int]]:
        """Return the first batches of pretraining, as numbers of blocks."""
        passes = (self.corpus.order(batch_tokens, self.settings.long_share, self.settings.seed, number)
                  for number in itertools.count())
        return list(itertools.islice(itertools.chain.from_iterable(passes), count))

    def tokens(self, batches: Sequence[Sequence[int]]) -> int:
        """Return how many tokens these batches have."""
        return sum(self.corpus.collate(rows).input_ids.numel() for rows in batches)


class Ours(Contestant):
    """The contender: put together as pretraining/run.py does."""

    def __init__(self, work: Workload) -> None:
        keep_freed_memory()
        super().__init__(work)
        fast, kind = choose_engine(self.settings, self.machine)
        gpt, config = make_backbone(self.settings, self.tokenizer)
        fast = fast and FastGPT2(gpt, config.num_attention_heads, fast.gelu)
        counts = self.corpus.counts(len(self.tokenizer))
        self.model = LanguageModel(gpt, counts, self.tokenizer.pad_id, fast).to(self.machine.device)
        self.optimizer = kind(parameter_groups(self.model, self.settings.weight_decay), lr=self.settings.lr,
                              betas=(0.9, self.settings.beta2))

    def train(self, *batches: list[int]) -> float:
        """Train on these batches and return the mean loss."""
        state, feed = TrainState(), Feed(lambda leg: batches, self.corpus.collate)
        fit(self.model, self.optimizer, feed, pretraining(0.0, 0.0), state, self.machine, epochs=1,
            max_grad_norm=self.settings.max_grad_norm)
        return state.loss


class Plain(Contestant):
    """The peer: GPT2LMHeadModel with sdpa attention, PyTorch's fused AdamW, and no more than training needs."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        config = transformers.GPT2Config(
            vocab_size=len(self.tokenizer), n_positions=work.shape.max_position_embeddings,
            n_embd=work.shape.hidden_size, n_layer=work.shape.num_hidden_layers, n_head=work.shape.num_attention_heads,
            attn_implementation="sdpa", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        self.model = transformers.GPT2LMHeadModel(config).to(self.machine.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings.lr,
                                           betas=(0.9, self.settings.beta2), fused=True)

    def train(self, *batches: list[int]) -> float:
        """Train on these batches and return the mean loss."""
        self.model.train()
        losses = []
        for rows in batches:
            batch = self.corpus.collate(rows).to(self.machine.device)
            with self.machine.autocast():
                logits = self.model(input_ids=batch.input_ids).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            losses.append(loss.detach() * len(rows))
        return float(torch.stack(losses).sum()) / sum(map(len, batches))
