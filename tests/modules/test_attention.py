"""CausalSelfAttention against its definition, PyTorch's attention, and itself by another path."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modules import attention as module_under_test
from modules import attention_in_pieces as pieces_under_test
from modules.attention import (
    CausalSelfAttention,
    attention,
    both_masks,
    causal_mask,
    dropping_attention,
    fastest,
    fused_attention,
)
from modules.attention_in_pieces import attention_in_pieces
from modules.dropout import draw_kept
from sanity import attention as sanity
from sanity.checks import randomise


def config(C=48, nh=4, p=0.0, fused=False):
    return SimpleNamespace(hidden_size=C, num_attention_heads=nh, attention_probs_dropout_prob=p,
                           fused_attention=fused)


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


def random_qkv(B=2, nh=3, T=5, hs=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(T)
    return (torch.randn(B, nh, T, hs, generator=generator, dtype=dtype) for _ in range(3))


def holes(B, T, dtype=torch.float64):
    """Additive mask [B, 1, 1, T]: padding at the end of the first row, holes in the last; token 0 is real."""
    mask = torch.zeros(B, 1, 1, T, dtype=dtype)
    mask[0, ..., T // 2 + 1:] = torch.finfo(dtype).min
    mask[-1, ..., 1:T - 1:2] = torch.finfo(dtype).min
    return mask


@pytest.mark.parametrize("fused", [False, True], ids=["by hand", "fused"])
@pytest.mark.parametrize("check", sanity.CHECKS, ids=lambda check: check.__name__)
def test_sanity(check, fused):
    """Catches: what sanity_check.py is for: scale, masks, heads, dropout, shapes, gradients, on both paths."""
    result = check(lambda given: CausalSelfAttention(SimpleNamespace(**vars(given), fused_attention=fused)))
    assert result.passed, result


@pytest.mark.parametrize("attend", [attention, fused_attention, dropping_attention])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_definition(attend, T):
    """Catches: a mistake shared with PyTorch's implementation, or with our reading of its arguments."""
    q, k, v = random_qkv(T=T)
    mask = holes(2, T)
    got = attend(q, k, v, mask, nn.Dropout(0.0))
    want = torch.stack([by_definition(q[b], k[b], v[b], mask[b, 0, 0]) for b in range(2)])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [1, 7, 33])
@pytest.mark.parametrize("kind", ["none", "all visible", "holes"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_the_fused_path_is_equal(dtype, tolerance, kind, T):
    """Catches: a fused path with another mask, scale or gradient."""
    leaves = [tensor.requires_grad_() for tensor in random_qkv(T=T, dtype=dtype)]
    mask = {"none": None, "all visible": torch.zeros(2, 1, 1, T, dtype=dtype), "holes": holes(2, T, dtype)}[kind]
    direction = torch.randn(2, 3, T, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    results = []
    for attend in (attention, fused_attention, dropping_attention):
        out = attend(*leaves, mask, nn.Dropout(0.0))
        results.append([out, *torch.autograd.grad((out * direction).sum(), leaves)])
    for by_hand, *others in zip(*results, strict=True):
        for fast in others:
            torch.testing.assert_close(fast, by_hand, rtol=0, atol=tolerance * max(1.0, by_hand.abs().max().item()))


@pytest.mark.parametrize("piece", [1, 100, 200, 2**18], ids=["a matrix", "two heads", "two rows", "all"])
@pytest.mark.parametrize("kind", ["none", "holes"])
def test_pieces_drop_what_the_definition_would(monkeypatch, piece, kind):
    """Catches: a piece skipped or done twice, another row's mask, a gradient that forgets what was dropped."""
    monkeypatch.setattr(pieces_under_test, "PIECE", piece)
    leaves = [tensor.requires_grad_() for tensor in random_qkv(B=5, nh=3, T=7)]
    mask = {"none": None, "holes": holes(5, 7)}[kind]
    torch.manual_seed(0)
    kept, scale = draw_kept(torch.Size((5, 3, 7, 7)), 0.3)
    torch.manual_seed(0)
    ours = attention_in_pieces(*leaves, both_masks(leaves[0], mask), 0.3)
    want = attention(*leaves, mask, lambda weights: weights * kept * scale)
    torch.testing.assert_close(ours, want, rtol=0, atol=1e-13)
    direction = torch.randn(5, 3, 7, 4, dtype=torch.float64)
    for got, expected in zip(torch.autograd.grad(ours, leaves, direction), torch.autograd.grad(want, leaves, direction),
                             strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_pieces_keep_little_for_the_backward_pass():
    """Catches: a second or third [T, T] tensor kept, which is most of the memory for long texts."""
    sizes = []
    q, k, v = (tensor.float().requires_grad_() for tensor in random_qkv(B=2, nh=3, T=64, hs=4))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        dropping_attention(q, k, v, None, nn.Dropout(0.1))
    assert sum(sizes) == 3 * q.nbytes + 2 * 3 * 64 * 64 * (4 + 1)


def test_dropout_on_both_paths():
    """Catches: a fused path that drops in eval mode, not at all in training, or with another scale."""
    q, k, v = random_qkv(B=1, nh=2, T=9, hs=4)
    for attend in (attention, fused_attention, dropping_attention):
        assert attend(q, k, v, None, nn.Dropout(1.0)).abs().max() == 0
        torch.testing.assert_close(attend(q, k, v, None, nn.Dropout(1.0).eval()),
                                   attention(q, k, v, None, nn.Dropout(0.0)))
        torch.manual_seed(0)
        mean = torch.stack([attend(q, k, v, None, nn.Dropout(0.5)) for _ in range(2000)]).mean(dim=0)
        assert (mean - attention(q, k, v, None, nn.Dropout(0.0))).abs().max() < 0.25  # 5 standard errors
        assert (mean[:, :, 0] - v[:, :, 0]).abs().max() < 0.2


@pytest.mark.parametrize("dtype, p, training, gradients, best", [
    (torch.float32, 0.0, True, True, "fused_attention"),
    (torch.float32, 0.1, False, False, "fused_attention"),
    (torch.float32, 0.1, True, True, "dropping_attention"),
    (torch.bfloat16, 0.0, True, True, "attention"),
    (torch.bfloat16, 0.1, True, True, "attention"),
    (torch.bfloat16, 0.1, False, False, "fused_attention"),
])
def test_the_fastest_path_is_taken(monkeypatch, dtype, p, training, gradients, best):
    """Catches: a choice that slows training on the CPU down, or a flag that chooses nothing."""
    taken = []
    for name in ("attention", "fused_attention", "dropping_attention"):
        real = getattr(module_under_test, name)
        monkeypatch.setattr(module_under_test, name, lambda *a, name=name, real=real: taken.append(name) or real(*a))
    x = torch.randn(1, 3, 48, dtype=dtype)
    for allowed in (True, False):
        module = CausalSelfAttention(config(p=p, fused=allowed)).to(dtype).train(training)
        with torch.set_grad_enabled(gradients):
            module(x)
    assert taken == [best, "attention"]


def test_a_gpu_always_takes_the_fused_path():
    """Catches: the CPU's exceptions applied to a GPU, whose kernels know dropout."""
    assert fastest(SimpleNamespace(device=torch.device("cuda")), nn.Dropout(0.1)) is fused_attention


def test_bfloat16_is_close():
    """Catches: a mask that overflows to NaN in a type with few digits."""
    module = randomise(CausalSelfAttention(config())).eval()
    x = torch.randn(2, 9, 48, generator=torch.Generator().manual_seed(0))
    want = module(x, holes(2, 9, torch.float32))
    got = module.bfloat16()(x.bfloat16(), holes(2, 9, torch.float32))
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() < 0.15  # 8 bits of mantissa on values up to 5


def test_causal_mask():
    """Catches: an upper triangle, or a diagonal that is left out."""
    assert causal_mask(3, torch.device("cpu")).tolist() == [[True, False, False], [True, True, False],
                                                            [True, True, True]]


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
    """Catches: any leak from later tokens, from padding, or between rows, at any shape; on both paths."""
    B, T, nh = (data.draw(st.integers(1, top), label) for top, label in ((3, "B"), (12, "T"), (6, "nh")))
    module = randomise(CausalSelfAttention(config(C=6 * nh, nh=nh, fused=data.draw(st.booleans())))).eval().double()
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
