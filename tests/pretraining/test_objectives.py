"""The objectives of pretraining against plain loops in float64, and what each must not see."""

import math
import re

import pytest
import torch

from engine.gpt2 import FastGPT2
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from pretraining.objectives import BAG_EVERY, BAG_SAMPLES, LanguageModel, generate, perplexity
from training.loop import Diverged

V, END = 23, 0


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        max_position_embeddings=64)
    model = LanguageModel(GPT2Model(config), torch.arange(V) * 100, END).double().eval()
    torch.nn.init.normal_(model.gpt.word_embedding.weight, std=0.3)
    return model


def test_rating_is_the_mean_over_all_tokens_of_the_rated_ones(model):
    """Catches unrated tokens that count (as NaN or as a rating of 0), a mean over the rated ones only, a wrong sign,
    and a gradient from tokens without a rating.
    """
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    none = math.nan
    ratings = torch.tensor([[0.8, 0.8, none, 0.0, 1.0], [none] * 5])
    loss = model.rating(hidden, ratings)
    expected = 0.0
    for b in range(2):
        for t in range(5):
            if not math.isnan(share := float(ratings[b, t])):
                p = (hidden[b, t] @ model.judge.weight[0] + model.judge.bias).sigmoid().item()
                expected -= share * math.log(p) + (1 - share) * math.log(1 - p)
    assert loss.item() == pytest.approx(expected / 10, rel=1e-6)
    loss.backward()
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, ~ratings.isnan())


def test_no_rating_at_all(model):
    """Catches 0 / 0 in a batch of documents that state nothing."""
    loss = model.rating(torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True), torch.full((1, 3), math.nan))
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_bag_of_words_asks_for_words_of_the_same_document(model, monkeypatch):
    """Catches words of another document or of beyond the block that count, the token between documents asked for,
    frequent words that count as much as rare ones, and a wrong cross-entropy. Draws are recorded, then done by hand.
    """
    B, T = 3, 40
    input_ids = torch.randint(1, V, (B, T))
    input_ids[:, 13] = END
    input_ids[1, 30] = END
    hidden = torch.randn(B, T, 8, dtype=torch.float64)
    drawn, randint = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **kinds: drawn.append(randint(*args, **kinds)) or drawn[-1])
    loss = model.bag_of_words(hidden, input_ids)
    first, shift = drawn
    places = list(range(int(first), T, BAG_EVERY))
    assert shift.shape == (B, len(places), BAG_SAMPLES)
    total = weights = 0.0
    document = [[sum(row[:t + 1] == END) for t in range(T)] for row in input_ids]
    logits = model.bag(hidden) @ model.gpt.word_embedding.weight.T
    for b in range(B):
        for number, at in enumerate(places):
            for t in (at + shift[b, number]).tolist():
                if 0 <= t < T and document[b][t] == document[b][at]:
                    weight = float(model.word_weight[input_ids[b, t]])
                    total -= weight * logits[b, at].log_softmax(-1)[input_ids[b, t]].item()
                    weights += weight
    assert weights > 10 and loss.item() == pytest.approx(total / weights, rel=1e-6)


def test_rare_words_weigh_more(model):
    """Catches weights upside down, a division by a count of zero, or the end of a text asked for."""
    weight = model.word_weight
    assert weight[END] == 0 and (weight[1:-1] >= weight[2:]).all() and weight[1] > weight[-1] > 0
    assert weight.isfinite().all() and float(weight.max()) <= 1


def test_sampling_draws_from_a_stream_of_its_own(model):
    """Catches a sample that changes training, depends on it, or is not the seed's; and a context that is too long."""
    before = torch.get_rng_state()
    texts = [generate(model.float(), [1, 2], 70, seed) for seed in (5, 5, 6)]
    assert torch.equal(before, torch.get_rng_state())
    assert texts[0] == texts[1] != texts[2] and texts[0][:2] == [1, 2] and len(texts[0]) == 72


def test_top_p_keeps_the_likely(model):
    """Catches the token that crosses the line cut off, or one behind it drawn: with a tiny p only the likeliest is."""
    greedy = generate(model.float(), [3], 10, seed=1, top_p=1e-6)
    for t in range(1, 11):
        logits = model.gpt.hidden_state_to_token(model.hidden(torch.tensor([greedy[:t]]))[0, -1])
        assert greedy[t] == int(logits.argmax())


def test_the_engine_gives_the_same_loss_and_gradients(model):
    """Catches: an engine that asks for another token, of another vector, or whose gradient misses weights."""
    fast = LanguageModel(model.gpt, torch.arange(V) * 100, END, FastGPT2(model.gpt, 2)).eval()
    ids = torch.randint(V, (3, 20), generator=torch.Generator().manual_seed(0))
    gradients = []
    for either in (model.float(), fast.float()):
        hidden = either.hidden(ids[:, :-1])
        loss = either.next_token(hidden, ids[:, 1:])
        gradients.append([hidden, loss, *torch.autograd.grad(loss, list(model.gpt.parameters()))])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_is_not_finite_ends_the_run_as_divergence_does(model):
    """Catches tracebacks: an OverflowError for a large loss, one of multinomial for a model that answers NaN."""
    assert perplexity(0.0) == 1.0 and perplexity(709.0) == math.exp(709)
    for loss in (710.0, 1e30, math.inf, math.nan):
        with pytest.raises(Diverged, match=re.escape(f"the held-out loss became {loss:g}")):
            perplexity(loss)
    with torch.no_grad():
        model.gpt.word_embedding.weight[5] = math.nan
    with pytest.raises(Diverged, match="probabilities became NaN"):
        generate(model.float(), [1, 2], 3, seed=1)
