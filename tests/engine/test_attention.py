"""The engine's attention against the steps by hand: the same numbers and gradients, in one pass, blocks or one row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import attention as engine
from engine.attention import attention, attention_in_blocks, last_token_attention
from engine.dropout import draw_kept


def by_hand(q, k, v, visible=None, dropped=lambda weights: weights):
    """softmax(Q K^T / sqrt(hs) + masks) V step by step; `dropped` is applied to the weights."""
    T, hs = q.shape[-2:]
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    if visible is not None:
        allowed = allowed & visible[:, None, None, :]
    scores = (q @ k.transpose(-2, -1) / math.sqrt(hs)).masked_fill(~allowed, -math.inf)
    return dropped(scores.softmax(dim=-1)) @ v


def random_qkv(B=2, nh=3, T=5, hs=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(B, nh, T, hs, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def holes(B, T):
    """bool [B, T]: padding at the end of the first row, holes in the last; token 0 is real."""
    visible = torch.ones(B, T, dtype=torch.bool)
    visible[0, T // 2 + 1:] = False
    visible[-1, 1:T - 1:2] = False
    return visible


MASKS = {"none": lambda B, T: None, "all visible": lambda B, T: torch.ones(B, T, dtype=torch.bool), "holes": holes}


def in_blocks(q, k, v, visible, p):
    return attention_in_blocks(q, k, v, engine.mask(q, visible), p)


def with_gradients(out, leaves):
    direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    return [out, *torch.autograd.grad((out * direction).sum(), leaves)]


@pytest.mark.parametrize("attend", [attention, in_blocks])
@pytest.mark.parametrize("T", [1, 7, 33])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_it_is_equal_to_the_steps_by_hand(dtype, tolerance, kind, T, attend):
    """Catches: another mask, scale or gradient."""
    leaves = random_qkv(T=T, dtype=dtype)
    visible = MASKS[kind](2, T)
    ours = with_gradients(attend(*leaves, visible, 0.0), leaves)
    for got, want in zip(ours, with_gradients(by_hand(*leaves, visible), leaves), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("block", [1, 100, 200, 2**18], ids=["a matrix", "two heads", "two rows", "all"])
@pytest.mark.parametrize("queries", [1, 3, 64])
@pytest.mark.parametrize("kind", ["none", "holes"])
def test_blocks_drop_what_the_steps_by_hand_would(monkeypatch, block, queries, kind):
    """Catches: a block skipped or done twice, another row's mask, a gradient that forgets what was dropped, a key that
    some of a block's queries see and others do not.
    """
    monkeypatch.setattr(engine, "BLOCK", block)
    monkeypatch.setattr(engine, "QUERIES", queries)
    leaves = random_qkv(B=5, nh=3, T=7)
    visible = MASKS[kind](5, 7)
    torch.manual_seed(0)
    kept, scale = draw_kept(torch.Size((5, 3, 7, 7)), 0.3)
    want = by_hand(*leaves, visible, lambda weights: weights * kept * scale)
    for attend in (attention, in_blocks):  # on a CPU, dropout is done in blocks
        torch.manual_seed(0)
        ours = attend(*leaves, visible, 0.3)
        for got, expected in zip(with_gradients(ours, leaves), with_gradients(want, leaves), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
        want = by_hand(*leaves, visible, lambda weights: weights * kept * scale)  # its graph is used up


def kept_for_backward(T):
    """Bytes that attention with dropout keeps for its backward pass, beyond query, key, value and the shared mask."""
    sizes = []
    q, k, v = random_qkv(B=2, nh=3, T=T, hs=4, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        attention(q, k, v, None, 0.1)
    return sum(sizes) - 3 * q.nbytes - 2 * T * T * 4


def test_blocks_keep_little_for_the_backward_pass():
    """Catches: a [T, T] tensor of float32 kept for each head, which is most of the memory for long texts. What is
    small enough for one block is kept: that is faster.
    """
    assert kept_for_backward(T=256) == 2 * 3 * 256 * 256
    assert kept_for_backward(T=32) == 2 * 3 * 32 * 32 * (1 + 4)


def test_dropout():
    """Catches: no dropout at all, or another scale."""
    q, k, v = (tensor.detach() for tensor in random_qkv(B=1, nh=2, T=9, hs=4))
    last = torch.ones(1, 9, dtype=torch.bool)
    for attend, want in ((attention, by_hand(q, k, v)), (in_blocks, by_hand(q, k, v)),
                         (lambda q, k, v, _, p: last_token_attention(q[:, :, -1:], k, v, last, p),
                          by_hand(q, k, v)[:, :, -1:])):
        assert attend(q, k, v, None, 1.0).abs().max() == 0
        torch.testing.assert_close(attend(q, k, v, None, 0.0), want)
        torch.manual_seed(0)
        mean = torch.stack([attend(q, k, v, None, 0.5) for _ in range(2000)]).mean(dim=0)
        assert (mean - want).abs().max() < 0.25  # 5 standard errors


@pytest.mark.parametrize("p, gradients", [(0.0, True), (0.1, True), (0.0, False)])
def test_bfloat16(p, gradients):
    """Catches: half precision on the CPU by a kernel that is slow backwards or knows no dropout, or that makes NaN."""
    exact = random_qkv(B=2, nh=2, T=9, dtype=torch.float32)
    leaves = [tensor.detach().bfloat16().requires_grad_(gradients) for tensor in exact]
    torch.manual_seed(0)
    got = attention(*leaves, holes(2, 9), p)
    assert got.dtype == torch.bfloat16 and got.isfinite().all()
    assert "ScaledDotProduct" not in str(got.grad_fn)
    if p == 0:
        assert (got.float() - by_hand(*exact, holes(2, 9))).abs().max() < 0.05  # 8 bits of mantissa


@settings(deadline=None, max_examples=30)
@given(B=st.integers(1, 4), nh=st.integers(1, 3), T=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_last_token_alone(B, nh, T, seed):
    """Catches: another scale or mask for the one row that last_token_attention computes, or another gradient."""
    q, k, v = random_qkv(B, nh, T)
    generator = torch.Generator().manual_seed(seed)
    visible = torch.rand(B, T, generator=generator) < 0.6
    visible[:, 0] = True
    last = torch.tensor([int(row.nonzero().max()) for row in visible])
    rows = torch.arange(B)
    want = by_hand(q, k, v, visible)[rows, :, last]
    got = last_token_attention(q[rows, :, last][:, :, None], k, v, visible, 0.0)[:, :, 0]
    for ours, theirs in zip(with_gradients(got, (q, k, v)), with_gradients(want, (q, k, v)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
