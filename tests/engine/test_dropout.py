"""Dropout: the distribution of nn.Dropout, its gradient, and less memory."""

import pytest
import torch
from torch import nn

from engine.dropout import draw_kept, dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_elements_are_dropped_with_probability_p(p):
    """Catches: a threshold off by one bit or sign, and positions that are dropped together (four share a word)."""
    torch.manual_seed(0)
    x = torch.ones(250, 1003)  # not a multiple of four
    out = dropout(x, nn.Dropout(p))
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
    out = dropout(x, nn.Dropout(0.4))
    grad, = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.dtype == grad.dtype == dtype
    torch.testing.assert_close(grad * x, out, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_it_has_its_limits_right():
    """Catches: dropout in eval mode, at p = 0, or an overflow of the threshold at p = 1 and at p too small to draw."""
    x = torch.randn(100, 100)
    assert dropout(x, nn.Dropout(0.5).eval()) is x or torch.equal(dropout(x, nn.Dropout(0.5).eval()), x)
    assert torch.equal(dropout(x, nn.Dropout(0.0)), x)
    assert torch.equal(dropout(x, nn.Dropout(1e-7)), x)
    assert dropout(x, nn.Dropout(1.0)).abs().max() == 0
    assert draw_kept(torch.Size((1000,)), 1 - 2**-17)[0].sum() == 0
    assert dropout(torch.empty(0, 3), nn.Dropout(0.5)).shape == (0, 3)
    x = torch.randn(4, device="meta")
    assert dropout(x, nn.Dropout(0.1)).shape == x.shape  # other devices: PyTorch's own


def test_it_draws_from_the_default_generator():
    """Catches: a stream of its own, which checkpoints would not save."""
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, nn.Dropout(0.5)), dropout(x, nn.Dropout(0.5))
    torch.manual_seed(3)
    assert torch.equal(dropout(x, nn.Dropout(0.5)), first)
    assert not torch.equal(first, second)


def test_it_keeps_one_byte_for_each_element():
    """Catches: a float32 mask kept for the backward pass, as nn.Dropout does."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        dropout(torch.randn(10, 10, requires_grad=True), nn.Dropout(0.1))
    assert sizes == [100]
