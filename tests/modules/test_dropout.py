"""Dropout: the distribution of nn.Dropout, its gradient, and less memory. Word dropout: whole words, and only those."""

import pytest
import torch
from torch import nn

from modules.dropout import Dropout, WordDropout, draw_kept


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_elements_are_dropped_with_probability_p(p):
    """Catches: a threshold off by one bit or sign, and positions that are dropped together (four share a word)."""
    torch.manual_seed(0)
    x = torch.ones(250, 1003)  # not a multiple of four
    out = Dropout(p)(x)
    kept = out != 0
    n = x.numel()
    assert abs(kept.float().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)), rtol=1e-4, atol=0)
    flat = kept.flatten().double() - (1 - p)
    for shift in (1, 2, 3, 4, 1003):
        assert abs((flat[shift:] * flat[:-shift]).mean().item()) < 5 * p * (1 - p) / n ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_goes_where_the_numbers_went(dtype):
    """Catches: a backward pass with other elements, another scale or another type."""
    x = torch.randn(7, 9, dtype=dtype, requires_grad=True)
    out = Dropout(0.4)(x)
    grad, = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.dtype == grad.dtype == dtype
    torch.testing.assert_close(grad * x, out, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_it_has_its_limits_right():
    """Catches: dropout in eval mode, at p = 0, or an overflow of the threshold at p = 1 and at p too small to draw."""
    x = torch.randn(100, 100)
    assert Dropout(0.5).eval()(x) is x or torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1e-7)(x), x)
    assert Dropout(1.0)(x).abs().max() == 0
    assert draw_kept(torch.Size((1000,)), 1 - 2**-17)[0].sum() == 0
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
    assert isinstance(Dropout(0.1), nn.Dropout)


def test_it_draws_from_the_default_generator():
    """Catches: a stream of its own, which checkpoints would not save."""
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = Dropout(0.5)(x), Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(first, second)


def test_it_keeps_one_byte_for_each_element():
    """Catches: a float32 mask kept for the backward pass, as nn.Dropout does."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        Dropout(0.1)(torch.randn(10, 10, requires_grad=True))
    assert sizes == [100]


def test_words_are_blanked_whole():
    """Catches: single numbers dropped, all texts losing the same words, a rate of 1 - p, words scaled up."""
    torch.manual_seed(0)
    embedding = nn.Embedding(50, 8)
    ids = torch.randint(50, (200, 300))
    plain = embedding(ids)
    embedding.register_forward_hook(WordDropout(0.2))
    vectors = embedding(ids)
    blank = vectors.eq(0).all(dim=-1)
    torch.testing.assert_close(vectors, plain * ~blank[..., None], rtol=0, atol=0)
    assert abs(blank.double().mean().item() - 0.2) < 5 * (0.2 * 0.8 / ids.numel()) ** 0.5
    assert blank.sum(dim=0).max() < 100 and blank.sum(dim=1).max() < 150


def test_blank_words_learn_nothing_and_evaluation_has_none():
    """Catches: gradients for words that were not there, blanks in eval mode, p = 0 or 1 off by a comparison."""
    embedding = nn.Embedding(6, 4)
    plain = embedding(torch.arange(6)[None])
    hook = WordDropout(0.5)
    embedding.register_forward_hook(hook)
    assert torch.equal(embedding.eval()(torch.arange(6)[None]), plain)
    torch.manual_seed(1)
    vectors = embedding.train()(torch.arange(6)[None])
    vectors.sum().backward()
    assert torch.equal(embedding.weight.grad.eq(0), vectors[0].eq(0)) and 0 < vectors[0].eq(0).sum() < 24
    for p, share in ((0.0, 0.0), (1.0, 1.0)):
        hook.p = p
        assert embedding(torch.arange(6)[None]).eq(0).double().mean() == share
