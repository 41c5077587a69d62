"""FastGPT2 against the definition in models/gpt2.py: the same vectors and gradients, for every mask, shape and type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import agree
from engine.gpt2 import FastGPT2
from models.config import GPT2Config
from models.gpt2 import GPT2Model

MASKS = {
    "no padding": [[1] * 7] * 4,
    "right padding": [[1] * n + [0] * (7 - n) for n in (7, 1, 4, 6)],
    "holes": [[1, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


def both(layers=3, nh=3, hs=8, dropout=0.0, dtype=torch.float64, device="cpu"):
    """A model with random weights, LayerNorms included, and the engine on the same weights."""
    config = GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=nh * hs, num_hidden_layers=layers,
                        num_attention_heads=nh, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    gpt = GPT2Model(config)
    agree.randomise(gpt)
    gpt = gpt.to(device, dtype)
    return gpt, FastGPT2(gpt, nh)


def outputs(gpt, forward, mask, kind="last_token"):
    """A result, and the gradient of a function of it for every parameter."""
    device = gpt.word_embedding.weight.device
    mask = torch.tensor(mask, device=device)
    ids = torch.randint(0, 50, mask.shape, generator=torch.Generator().manual_seed(0)).to(device)
    result = forward(ids, mask)[kind]
    if kind == "last_hidden_state":
        result = result[mask.bool()]
    return [result, *torch.autograd.grad(result.sin().sum(), list(gpt.parameters()))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_it_is_the_definition(mask, layers, training, device):
    """Catches: another position or mask, a missing norm, a block left out, a gradient that does not arrive."""
    gpt, fast = both(layers, device=device)
    gpt.train(training)
    for forward, kind in ((fast.last_token, "last_token"), (fast.all_tokens, "last_token"),
                          (fast.all_tokens, "last_hidden_state")):
        for ours, want in zip(outputs(gpt, forward, mask, kind), outputs(gpt, gpt, mask, kind), strict=True):
            torch.testing.assert_close(ours, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 0.2)])
def test_other_types(dtype, tolerance, device):
    """Catches: a mask that overflows to NaN in a type with few digits, a path that changes the type."""
    gpt, fast = both(dtype=dtype, device=device)
    for mask in MASKS.values():
        got, want = (outputs(gpt, forward, mask)[0] for forward in (fast.last_token, gpt))
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    """Catches: a path that bfloat16 autocast breaks, in training with dropout and in evaluation."""
    gpt, fast = both(dtype=torch.float32, dropout=0.1, device=device)
    for training in (True, False):
        gpt.train(training)
        with torch.autocast(device, dtype=torch.bfloat16):
            for mask in MASKS.values():
                results = outputs(gpt, fast.last_token, mask)
                assert all(result.isfinite().all() for result in results)
                if not training:
                    torch.testing.assert_close(results[0], outputs(gpt, gpt, mask)[0], rtol=0.1, atol=0.2)


@pytest.mark.parametrize("kind", ["last_token", "all_tokens"])
def test_recomputing_changes_nothing(kind):
    """Catches: blocks recomputed with other inputs, or with other random numbers in their dropouts."""
    gpt, fast = both(dropout=0.3)
    gpt.train()
    results = []
    for fast.recompute in (False, True):
        torch.manual_seed(0)
        results.append(outputs(gpt, getattr(fast, kind), MASKS["holes"]))
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_long_texts_keep_less_for_the_backward_pass(monkeypatch):
    """Catches: GELU's results kept, a sixth of the memory for long texts; or gradients of something else without them.
    """
    gpt, fast = both(dropout=0.1)
    kept, gradients = [], []
    for large in (2**22, 1):
        monkeypatch.setattr("engine.gpt2.LARGE", large)
        torch.manual_seed(0)
        gradients.append(outputs(gpt.train(), fast.last_token, MASKS["no padding"]))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            fast.last_token(torch.zeros(4, 7, dtype=torch.int64), torch.ones(4, 7))
        kept.append(sum({t.data_ptr(): t.nbytes for t in saved}.values()))
    results = (2 * 4 * 7 + 4) * 96 * 8  # two blocks of all tokens, one of the last tokens
    weights = 3 * gpt.gpt_layers[0].out_dense.weight.nbytes  # which stay anyway
    assert kept[0] - kept[1] == results + weights
    for ours, want in zip(*gradients, strict=True):
        assert torch.equal(ours, want)


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("name", ["self_attention.dropout", "attention_dropout", "out_dropout"])
def test_dropout_is_everywhere_it_should_be(number, name):
    """Catches: a dropout forgotten in either kind of block, or active in eval mode."""
    gpt, fast = both()
    gpt.train().gpt_layers[number].get_submodule(name).p = 0.5
    ids, mask = torch.randint(0, 50, (4, 7)), torch.ones(4, 7)
    assert not torch.equal(fast.last_token(ids, mask)["last_token"], fast.last_token(ids, mask)["last_token"])
    gpt.eval()
    assert torch.equal(fast.last_token(ids, mask)["last_token"], fast.last_token(ids, mask)["last_token"])


def test_the_last_block_works_on_one_token_a_row():
    """Catches: a fast way that is not fast."""
    gpt, fast = both()
    rows, final = [], gpt.gpt_layers[-1]
    for part in (final.interm_dense, final.self_attention.query):
        part.register_forward_hook(lambda module, inputs, output: rows.append(tuple(output.shape)))
    fast.last_token(torch.zeros(4, 7, dtype=torch.int64), torch.ones(4, 7))
    assert rows == [(4, 1, 24), (4, 96)]


def test_the_exact_gelu():
    """Catches: a form of GELU that is ignored."""
    gpt, tanh = both()
    ids, mask = torch.randint(0, 50, (4, 7)), torch.ones(4, 7)
    exact = FastGPT2(gpt, 3, gelu="none").last_token(ids, mask)["last_token"]
    difference = (exact - tanh.last_token(ids, mask)["last_token"]).abs().max()
    assert 1e-6 < difference < 1e-2


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_shape(data):
    """Catches: a shape at which engine and definition part."""
    B, T, nh, hs, layers = (data.draw(st.integers(1, top), label) for top, label in
                            ((4, "B"), (16, "T"), (4, "nh"), (5, "hs"), (3, "layers")))
    gpt, fast = both(layers, nh, hs)
    gpt.train(data.draw(st.booleans(), "training"))
    rows = [data.draw(st.lists(st.integers(0, 1), min_size=T - 1, max_size=T - 1), "mask") for _ in range(B)]
    mask = [[1, *row] for row in rows]
    for ours, want in zip(outputs(gpt, fast.last_token, mask), outputs(gpt, gpt, mask), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-9, atol=1e-10)
