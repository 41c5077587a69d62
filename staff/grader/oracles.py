"""What is right: the course's functions in NumPy, in float64. Written from the formulas, apart from the solution.

Weights are found by their names in `inputs`, after a prefix: "gpt_layers.0.self_attention." + "query.weight".
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Array = np.ndarray

GELUS = ("tanh", "erf")
"GPT-2's own form, and the exact one that the course's starter hands out."

FORMS, ORDERS = ("efficient", "hat"), ("after", "before")
"Where AdamW's bias correction is, and when it decays. Both forms are right; `before` costs the points of one test."


def softmax(scores: Array) -> Array:
    """Return exp(scores), divided by its sum over the last axis."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def linear(inputs: Mapping[str, Array], name: str, x: Array) -> Array:
    """Apply the linear layer `name`: x W^T + b, with its weight [out, in] and bias [out] taken from the inputs."""
    return x @ inputs[f"{name}.weight"].astype(np.float64).T + inputs[f"{name}.bias"]


def layer_norm(inputs: Mapping[str, Array], name: str, x: Array, eps: float = 1e-5) -> Array:
    """Give each row of x mean 0 and variance 1, then apply the gain and bias of the norm `name`."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return normed * inputs[f"{name}.weight"].astype(np.float64) + inputs[f"{name}.bias"]


def gelu(x: Array, form: str = "tanh") -> Array:
    """Return x Phi(x), Phi being the normal distribution function ("erf"); or GPT-2's formula for it ("tanh")."""
    if form == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if form == "erf":
        return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
    raise ValueError(form)


def attention(inputs: Mapping[str, Array], x: Array | None = None, prefix: str = "") -> Array:
    """Return causal attention of x [B, T, C] (or inputs x) under inputs mask [B, 1, 1, T], nh heads: [B, T, C]."""
    x, nh = (inputs["x"] if x is None else x).astype(np.float64), int(inputs["nh"])
    B, T, C = x.shape
    query, key, value = (linear(inputs, prefix + name, x).reshape(B, T, nh, C // nh).transpose(0, 2, 1, 3)
                         for name in ("query", "key", "value"))
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(C // nh) + inputs["mask"].astype(np.float64)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    return (softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(B, T, C)


def layer(inputs: Mapping[str, Array], form: str = "tanh", x: Array | None = None, prefix: str = "",
          attend: Callable[..., Array] = attention) -> Array:
    """Return a pre-norm GPT-2 block of x [B, T, C] (or inputs x). form: of GELU. attend: attention, or a stub's oracle.
    """
    x = (inputs["x"] if x is None else x).astype(np.float64)
    attended = attend(inputs, layer_norm(inputs, f"{prefix}attention_layer_norm", x), f"{prefix}self_attention.")
    x = x + linear(inputs, f"{prefix}attention_dense", attended)
    inner = linear(inputs, f"{prefix}interm_dense", layer_norm(inputs, f"{prefix}out_layer_norm", x))
    return x + linear(inputs, f"{prefix}out_dense", gelu(inner, form))


def adamw(p: Array, grads: Sequence[Array | None], form: str = "efficient", order: str = "after", *,
          lr: float | Sequence[float] = 1e-3, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-6,
          weight_decay: float = 0.0, correct_bias: bool = True) -> list[Array]:
    """Return a parameter's values after each of its steps. grads: one for each step, None where there is none.

    form: "efficient", the step size carries the correction and eps is added to sqrt(v); "hat", both means are
    corrected and eps is added to sqrt(v_hat). lr: one number, or one for each step.
    """
    p, (beta1, beta2) = p.astype(np.float64), betas
    m, v, t, values = np.zeros_like(p), np.zeros_like(p), 0, []
    for rate, g in zip(np.broadcast_to(lr, len(grads)), grads, strict=True):
        if g is not None:
            t += 1
            g = g.astype(np.float64)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            short1, short2 = (1 - beta1**t, 1 - beta2**t) if correct_bias else (1.0, 1.0)
            if form == "efficient":
                update = rate * math.sqrt(short2) / short1 * m / (np.sqrt(v) + eps)
            else:
                update = rate * (m / short1) / (np.sqrt(v / short2) + eps)
            decay = 1 - rate * weight_decay
            p = decay * (p - update) if order == "after" else decay * p - update
        values.append(p)
    return values
