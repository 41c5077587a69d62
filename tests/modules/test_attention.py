"""CausalSelfAttention against loops over heads and tokens, PyTorch's attention, and the rules that it must keep."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.attention import CausalSelfAttention
from sanity import attention as sanity
from sanity.checks import randomise


def config(C=48, nh=4, p=0.0):
    return SimpleNamespace(hidden_size=C, num_attention_heads=nh, attention_probs_dropout_prob=p)


def by_definition(q, k, v, mask):
    """Attention of one text by loops over heads and tokens, in plain Python: q, k, v [nh, T, hs], mask [T]."""
    nh, T, hs = q.shape
    out = torch.zeros(nh, T, hs, dtype=torch.float64)
    for h in range(nh):
        for i in range(T):
            seen = [j for j in range(i + 1) if mask[j] == 0]
            scores = [sum(float(q[h, i, c] * k[h, j, c]) for c in range(hs)) / hs ** 0.5 for j in seen]
            weights = [math.exp(score - max(scores)) for score in scores]
            for j, weight in zip(seen, weights, strict=True):
                out[h, i] += weight / sum(weights) * v[h, j]
    return out


def holes(B, T, dtype=torch.float64):
    """Additive mask [B, 1, 1, T]: padding at the end of the first row, holes in the last; token 0 is real."""
    mask = torch.zeros(B, 1, 1, T, dtype=dtype)
    mask[0, ..., T // 2 + 1:] = torch.finfo(dtype).min
    mask[-1, ..., 1:T - 1:2] = torch.finfo(dtype).min
    return mask


@pytest.mark.parametrize("check", sanity.CHECKS, ids=lambda check: check.__name__)
def test_sanity(check):
    """Catches: what sanity_check.py is for: scale, masks, heads, dropout, shapes, gradients."""
    result = check(CausalSelfAttention)
    assert result.passed, result


@pytest.mark.parametrize("T", [1, 2, 5])
def test_loops_over_heads_and_tokens(T):
    """Catches: a mistake shared with PyTorch's implementation, or with our reading of its arguments."""
    module = randomise(CausalSelfAttention(config(C=12, nh=3))).eval().double()
    x = torch.randn(2, T, 12, generator=torch.Generator().manual_seed(T), dtype=torch.float64)
    mask = holes(2, T)
    q, k, v = (part(x).detach().unflatten(-1, (3, 4)).transpose(1, 2)
               for part in (module.query, module.key, module.value))
    want = torch.stack([by_definition(q[b], k[b], v[b], mask[b, 0, 0]) for b in range(2)])
    torch.testing.assert_close(module(x, mask), want.transpose(1, 2).flatten(2), rtol=0, atol=1e-12)


def test_dropout():
    """Catches: dropout in eval mode, none in training, or another scale."""
    module = randomise(CausalSelfAttention(config(C=8, nh=2, p=0.5)))
    x, mask = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 1, 9)
    with torch.no_grad():
        want = module.eval()(x, mask)
        value = module.value(x)
        torch.manual_seed(0)
        module.train()
        mean = torch.stack([module(x, mask) for _ in range(2000)]).mean(dim=0)
        module.dropout.p = 1.0
        assert module(x, mask).abs().max() == 0
    assert (mean - want).abs().max() < 0.25  # 5 standard errors
    assert (mean[:, 0] - value[:, 0]).abs().max() < 0.2


def test_bfloat16_is_close():
    """Catches: a mask that overflows to NaN in a type with few digits."""
    module = randomise(CausalSelfAttention(config())).eval()
    x = torch.randn(2, 9, 48, generator=torch.Generator().manual_seed(0))
    want = module(x, holes(2, 9, torch.float32))
    got = module.bfloat16()(x.bfloat16(), holes(2, 9, torch.bfloat16))
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() < 0.15  # 8 bits of mantissa on values up to 5


def test_heads_must_divide_the_width():
    """Catches: channels dropped silently by an integer division."""
    with pytest.raises(ValueError, match=r"hidden_size \(48\).*num_attention_heads \(5\)"):
        CausalSelfAttention(config(nh=5))


def test_it_adds_no_state():
    """Catches: a stored mask, which would break the loading of checkpoints."""
    names = {f"{name}.{kind}" for name in ("query", "key", "value") for kind in ("weight", "bias")}
    assert set(CausalSelfAttention(config()).state_dict()) == names


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_properties(data):
    """Catches: any leak from later tokens, from padding, or between rows, at any shape."""
    B, T, nh = (data.draw(st.integers(1, top), label) for top, label in ((3, "B"), (12, "T"), (6, "nh")))
    module = randomise(CausalSelfAttention(config(C=6 * nh, nh=nh))).eval().double()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    x = torch.randn(B, T, 6 * nh, generator=generator, dtype=torch.float64)
    visible = torch.rand(B, 1, 1, T, generator=generator) < 0.7
    visible[..., 0] = True
    mask = torch.zeros(visible.shape, dtype=x.dtype).masked_fill(~visible, torch.finfo(x.dtype).min)
    out = module(x, mask)
    assert out.isfinite().all()

    order = torch.randperm(B, generator=generator)
    torch.testing.assert_close(module(x[order], mask[order]), out[order], rtol=0, atol=1e-12)

    j = data.draw(st.integers(0, T - 1), "changed token")
    changed = x.clone()
    changed[:, j] += 1.0
    after = module(changed, mask)
    assert torch.equal(after[:, :j], out[:, :j]), "an earlier token saw a later one"
    hidden = ~visible[:, 0, 0, j]
    assert torch.equal(after[hidden, j + 1:], out[hidden, j + 1:]), "padding was looked at"

    if T > 1:
        shorter = module(x[:, :-1], mask[..., :-1])
        torch.testing.assert_close(shorter, out[:, :-1], rtol=0, atol=1e-12)
