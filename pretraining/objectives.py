"""What a GPT-2 is pretrained on: the next token, words around it, and the rating that a review states."""

import math
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.cross_entropy import linear_cross_entropy
from engine.gpt2 import FastGPT2
from pretraining.corpus import Blocks
from training.loop import Diverged, Outcome

BAG_EVERY, BAG_SAMPLES = 16, 32  # the second objective asks every 16th token for 32 words around it
COMMON = 3e-4  # a word's share of the text above which it counts less there: "the" says little about a text


class LanguageModel(nn.Module):
    """A GPT2Model that is asked for the next token, and while training also for words and rating of the document.

    word_counts [V]: how often each token occurs. end: the token between documents. fast: the engine, or none.
    """

    def __init__(self, gpt: nn.Module, word_counts: Tensor, end: int, fast: FastGPT2 | None = None):
        super().__init__()
        self.gpt, self.end, self.fast = gpt, end, fast
        C = gpt.word_embedding.embedding_dim
        self.bag = nn.Linear(C, C)
        self.judge = nn.Linear(C, 1)
        weight = (COMMON * word_counts.sum() / word_counts.clamp_min(1)).sqrt().clamp_max(1.0)
        weight[end] = 0.0
        self.register_buffer("word_weight", weight, persistent=False)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T], without padding -> [B, T, C], in the precision of the matrix products."""
        if self.fast:
            hidden = self.fast.all_tokens(input_ids)["last_hidden_state"]
        else:
            hidden = self.gpt(input_ids, torch.ones_like(input_ids))["last_hidden_state"]
        kind = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden

    def next_token(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [B, T, C], targets [B, T] -> mean cross-entropy of predicting targets, in nats a token."""
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if self.fast:
            return linear_cross_entropy(hidden, self.gpt.word_embedding.weight, targets)
        return F.cross_entropy(self.gpt.hidden_state_to_token(hidden).float(), targets)

    def bag_of_words(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """Cross-entropy of predicting, at every BAG_EVERY-th token, words drawn from around it in the same document.

        hidden [B, T, C], input_ids [B, T] -> scalar, in nats a word, rare words counting most. A word is drawn from up
        to T / 2 tokens before or after; one from another document does not count. Draws from the default generator.
        """
        B, T = input_ids.shape
        document = (input_ids == self.end).cumsum(dim=1)  # [B, T]: number of the document within the block
        at = torch.arange(int(torch.randint(min(BAG_EVERY, T), ())), T, BAG_EVERY, device=input_ids.device)  # [P]
        shift = torch.randint(-(T // 2), T // 2 + 1, (B, len(at), BAG_SAMPLES), device=input_ids.device)
        where = at[:, None] + shift  # [B, P, BAG_SAMPLES]
        near = where.clamp(0, T - 1)
        words = input_ids.gather(1, near.flatten(1)).view_as(near)
        same = document.gather(1, near.flatten(1)).view_as(near) == document[:, at, None]
        weight = self.word_weight[words] * (same & (where == near))
        query = self.bag(hidden[:, at])
        logits = query @ self.gpt.word_embedding.weight.to(query.dtype).T  # [B, P, V]
        log_p = logits.float().log_softmax(dim=-1).gather(2, words)
        return -(weight * log_p).sum() / weight.sum().clamp_min(1.0)

    def rating(self, hidden: Tensor, ratings: Tensor) -> Tensor:
        """Cross-entropy of guessing, after every token, the rating that the document turns out to state.

        hidden [B, T, C]; ratings [B, T], shares from 0 to 1, NaN where none is stated -> scalar: the sum over the rated
        tokens divided by the number of all, so that a block counts by as much as it holds.
        """
        guesses = self.judge(hidden).squeeze(-1).float()
        rated = ~ratings.isnan()
        losses = F.binary_cross_entropy_with_logits(guesses, ratings.nan_to_num(), reduction="none")
        return (losses * rated).sum() / rated.numel()


def pretraining(bag_weight: float, rating_weight: float) -> Callable[[LanguageModel, Blocks], Outcome]:
    """The objective: the next token, plus the weighted ones for the document's words and for its rating."""

    def objective(model: LanguageModel, batch: Blocks) -> Outcome:
        hidden = model.hidden(batch.input_ids)
        loss = model.next_token(hidden, batch.targets)
        if bag_weight:
            loss = loss + bag_weight * model.bag_of_words(hidden, batch.input_ids)
        if rating_weight:
            loss = loss + rating_weight * model.rating(hidden, batch.ratings)
        return Outcome(loss, torch.zeros((), dtype=torch.int64, device=loss.device))

    return objective


def change_tokens(gpt: nn.Module, parts: Sequence[Sequence[int]]) -> None:
    """Give a model another vocabulary: a token's vector is the mean of the old ones of its `parts`, at least one."""
    old = gpt.word_embedding.weight.detach()
    new = torch.stack([old[ids].mean(dim=0) for ids in parts])
    gpt.word_embedding = nn.Embedding.from_pretrained(new, freeze=False)


def perplexity(loss: float) -> float:
    """Return e to a loss in nats a token. Diverged if that is no finite number: guessing costs about 10 nats."""
    if not loss < math.log(sys.float_info.max):
        raise Diverged(f"the held-out loss became {loss:g}")
    return math.exp(loss)


@torch.no_grad()
def generate(model: LanguageModel, prompt: list[int], length: int, seed: int, top_p: float = 0.9) -> list[int]:
    """Continue a prompt by `length` tokens, each drawn from the smallest set that holds top_p of the probability.

    model is in eval mode. Draws from a generator of its own, so that sampling never changes training. Raises Diverged
    if a probability is NaN.
    """
    random = torch.Generator().manual_seed(seed)
    device = model.gpt.word_embedding.weight.device
    ids = list(prompt)
    for _ in range(length):
        context = torch.tensor([ids[-model.gpt.pos_embedding.num_embeddings:]], device=device)
        logits = model.gpt.hidden_state_to_token(model.hidden(context)[0, -1].float()).cpu()
        p, token = logits.softmax(dim=0).sort(descending=True)
        if not p.isfinite().all():
            raise Diverged("the next token's probabilities became NaN")
        p[p.cumsum(dim=0) - p > top_p] = 0.0  # the token that crosses the line stays
        ids.append(int(token[torch.multinomial(p, 1, generator=random)]))
    return ids
