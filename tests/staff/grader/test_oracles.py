"""The grader's NumPy oracles, held to PyTorch in float64; and what a comparison tells."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.grader import oracles
from staff.grader.case import Wrong, expect, expect_all, numbers

seeds = st.integers(0, 2**32 - 1)


def tensors(inputs):
    """Return the float64 tensors of some arrays."""
    return {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in inputs.items()}


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_attention_is_pytorchs(seed, nh, hs, T):
    """Catches: a wrong oracle of attention."""
    rng, C = np.random.default_rng(seed), nh * hs
    inputs = {"x": rng.normal(size=(2, T, C)), "nh": nh, "mask": np.where(rng.random((2, 1, 1, T)) < 0.3, -1e4, 0.0)}
    inputs["mask"][..., 0] = 0.0
    for name in ("query", "key", "value"):
        inputs |= {f"{name}.weight": rng.normal(size=(C, C)), f"{name}.bias": rng.normal(size=C)}
    t = tensors(inputs)
    q, k, v = (F.linear(t["x"], t[f"{name}.weight"], t[f"{name}.bias"]).unflatten(2, (nh, hs)).transpose(1, 2)
               for name in ("query", "key", "value"))
    mask = t["mask"] + torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    np.testing.assert_allclose(oracles.attention(inputs), want.numpy(), atol=1e-10)


@pytest.mark.parametrize("form", oracles.GELUS)
def test_layer_is_pytorchs(form):
    """Catches: a wrong oracle of the layer, of its norms or of GELU."""
    rng, C, inner = np.random.default_rng(0), 6, 10
    sizes = {"attention_dense": (C, C), "interm_dense": (inner, C), "out_dense": (C, inner)}
    inputs = {"x": rng.normal(size=(2, 5, C)), "mask": np.zeros((2, 1, 1, 5)), "nh": 2}
    for name, size in sizes.items():
        inputs |= {f"h.{name}.weight": rng.normal(size=size), f"h.{name}.bias": rng.normal(size=size[0])}
    for name in ("query", "key", "value"):
        inputs |= {f"h.self_attention.{name}.weight": rng.normal(size=(C, C)),
                   f"h.self_attention.{name}.bias": rng.normal(size=C)}
    for name in ("attention_layer_norm", "out_layer_norm"):
        inputs |= {f"h.{name}.weight": rng.normal(size=C), f"h.{name}.bias": rng.normal(size=C)}

    block = torch.nn.TransformerEncoderLayer(
        C, 2, inner, dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64,
        activation=lambda x: F.gelu(x, approximate="tanh" if form == "tanh" else "none"))
    t = tensors(inputs)
    attention = [t[f"h.self_attention.{name}.{part}"] for part in ("weight", "bias")
                 for name in ("query", "key", "value")]
    block.load_state_dict({
        "self_attn.in_proj_weight": torch.cat(attention[:3]), "self_attn.in_proj_bias": torch.cat(attention[3:]),
        **{f"{theirs}.{part}": t[f"h.{ours}.{part}"] for part in ("weight", "bias") for theirs, ours in {
            "self_attn.out_proj": "attention_dense", "linear1": "interm_dense", "linear2": "out_dense",
            "norm1": "attention_layer_norm", "norm2": "out_layer_norm"}.items()}})
    causal = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    want = block(t["x"], src_mask=causal).detach().numpy()
    np.testing.assert_allclose(oracles.layer(inputs, form, prefix="h."), want, atol=1e-10)
    assert np.abs(oracles.layer(inputs, form, prefix="h.") - oracles.layer(
        inputs, {"tanh": "erf", "erf": "tanh"}[form], prefix="h.")).max() > 1e-5


@given(seeds, st.floats(0.0, 0.99), st.floats(0.0, 0.999), st.floats(1e-8, 0.1), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_adamw_is_pytorchs(seed, beta1, beta2, eps, weight_decay):
    """Catches: a wrong oracle of AdamW, in the form and order that PyTorch has too."""
    rng = np.random.default_rng(seed)
    first, grads = rng.normal(size=(2, 3)), list(rng.normal(size=(5, 2, 3)))
    grads[2] = None
    options = {"lr": 0.1, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
    p = torch.nn.Parameter(torch.from_numpy(first.copy()))
    optimizer = torch.optim.AdamW([p], **options)
    for g, value in zip(grads, oracles.adamw(first, grads, "hat", "before", **options), strict=True):
        p.grad = None if g is None else torch.from_numpy(g)
        optimizer.step()
        np.testing.assert_allclose(value, p.detach().numpy(), rtol=1e-9, atol=1e-10)


def test_adamws_forms_and_orders():
    """Catches: forms that differ without eps, or orders that differ without decay; and the reverse."""
    rng = np.random.default_rng(0)
    first, grads = rng.normal(size=4), list(rng.normal(size=(3, 4)))

    def last(form, order, **options):
        return oracles.adamw(first, grads, form, order, lr=0.1, **options)[-1]

    np.testing.assert_allclose(last("efficient", "after", eps=0), last("hat", "after", eps=0))
    assert np.abs(last("efficient", "after", eps=0.1) - last("hat", "after", eps=0.1)).max() > 1e-3
    np.testing.assert_allclose(last("hat", "after"), last("hat", "before"))
    decay = {"weight_decay": 0.5}
    np.testing.assert_allclose(oracles.adamw(first, grads[:1], "hat", "after", lr=0.1, **decay)[0]
                               - oracles.adamw(first, grads[:1], "hat", "before", lr=0.1, **decay)[0],
                               0.1 * 0.5 * 0.1 * np.sign(grads[0]), rtol=1e-4)  # lr * weight_decay * (the update)


def test_without_bias_correction_by_hand():
    """Catches: correct_bias=False that still corrects. m = 0.1 g, v = 0.001 g^2 at the first step."""
    value, = oracles.adamw(np.array([1.0]), [np.array([2.0])], lr=0.1, eps=0.0, correct_bias=False)
    np.testing.assert_allclose(value, 1 - 0.1 * 0.2 / np.sqrt(0.004))


def test_where_an_answer_first_differs():
    """Catches: a message with another index, or of another right answer than the nearest."""
    want = np.arange(6.0).reshape(2, 3)
    got = {"y": want + np.array([[0, 0, 0], [0, 0.5, 9]])}
    with pytest.raises(Wrong, match=r"y\[1, 1\] is 4.5, not 4: the first of 2 that differ, by 9 at most"):
        expect("y", got, want + 100, want)
    with pytest.raises(Wrong, match=r"^y\[0, 0\] is nan, not 0: the first of 6 that differ$"):
        expect("y", {"y": want * np.nan}, want)
    assert expect("y", got, want, got["y"]) == 1


@pytest.mark.parametrize("value, words", [
    (np.zeros((2, 2)), "shape"), (np.array([["a"] * 3] * 2), "type"), (np.zeros((2, 3), complex), "type"),
    (np.full((2, 3), np.inf), "inf"), (np.full((2, 3), 1e300), "1e[+]300"), (np.zeros((2, 3), "M8[s]"), "type"),
    (np.zeros((2, 3), [("a", float)]), "type"), (np.float32(0), "shape")])
@pytest.mark.filterwarnings("error")
def test_hostile_arrays_are_wrong_and_no_more(value, words):
    """Catches: an array from the sandbox that crashes the grader."""
    with pytest.raises(Wrong, match=words):
        expect("y", {"y": np.asarray(value)}, np.ones((2, 3)))
    with pytest.raises(Wrong, match="missing"):
        numbers("z", {"y": np.asarray(value)})


def test_all_arrays_are_of_one_answer():
    """Catches: half of one right answer and half of another that pass together."""
    first, second = {"a": np.zeros(2), "b": np.zeros(2)}, {"a": np.ones(2), "b": np.ones(2)}
    assert expect_all(second, first, second) == 1
    with pytest.raises(Wrong, match=r"b\[0\] is 1, not 0|a\[0\] is 0, not 1"):
        expect_all({"a": np.zeros(2), "b": np.ones(2)}, first, second)
