"""Graded tests of models/gpt2.py. Its layers are stubs; what forward does is held to the submission's own embed.

from_pretrained has no test: the course hands it out, and it needs the Hugging Face hub.
"""

import numpy as np

from staff.grader.case import Request, Wrong, case, expect, numbers
from staff.grader.oracles import layer_norm, softmax

EXACT = 1e-6


def example(rng, layers=3, V=37, longest=12, C=24, eps=1e-5, alike=False) -> dict:
    """Return the sizes and random weights of a model; alike: every layer has the same weights."""
    def draw(*shape, scale=1.0):
        return rng.normal(size=shape, scale=scale).astype(np.float32)

    inputs = {"V": V, "longest": longest, "C": C, "layers": layers, "eps": eps,
              "word_embedding.weight": draw(V, C), "pos_embedding.weight": draw(longest, C),
              "final_layer_norm.weight": 1 + draw(C, scale=0.3), "final_layer_norm.bias": draw(C)}
    first = {"own": draw(C, C, scale=C ** -0.5), "shared": draw(C, C, scale=C ** -0.5)}
    for i in range(layers):
        for name in first:
            inputs[f"gpt_layers.{i}.{name}"] = first[name] if alike else draw(C, C, scale=C ** -0.5)
    return inputs


def texts(rng, inputs, B=3, T=7) -> np.ndarray:
    """Return token ids [B, T], with the first and the last id of the vocabulary among them."""
    ids = rng.integers(inputs["V"], size=(B, T))
    ids[0, :2] = 0, inputs["V"] - 1
    return ids


def holes(rng, B=3, T=7) -> np.ndarray:
    """Return a mask [B, T] whose rows have holes, padding, and both; no row starts with a 0."""
    mask = np.ones((B, T), dtype=np.int64)
    mask[0, 2:-1:2] = 0
    mask[1, T // 2:] = 0
    mask[2, 1], mask[2, -2:] = 0, 0
    return mask


def embedded(inputs: dict, ids: np.ndarray) -> np.ndarray:
    """ids [B, T] -> token embedding + position embedding, [B, T, C]."""
    positions = inputs["pos_embedding.weight"].astype(np.float64)
    return inputs["word_embedding.weight"].astype(np.float64)[ids] + positions[:ids.shape[1]]


def run_layers(inputs: dict, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return what the stub layers (stubs/model) make of x [B, T, C] under mask [B, T]: [B, T, C]."""
    weights = softmax(np.where(mask == 0, -np.inf, 0.0)[:, None, :])  # [B, 1, T]
    for i in range(inputs["layers"]):
        own, shared = (inputs[f"gpt_layers.{i}.{name}"].astype(np.float64) for name in ("own", "shared"))
        x = x @ own.T + weights @ x @ shared.T
    return x


def final_norm(inputs: dict, x: np.ndarray) -> np.ndarray:
    """Return the final LayerNorm of x [..., C]."""
    return layer_norm(inputs, "final_layer_norm", x, inputs["eps"])


@case
def embed(rng):
    """embed: the token's embedding plus the position's"""
    inputs = example(rng)
    inputs["ids"] = texts(rng, inputs)
    got = yield Request("model.embed", inputs)
    expect("embedded", got, embedded(inputs, inputs["ids"]))


@case
def embed_lengths(rng):
    """embed: one token, and as many tokens as there are positions"""
    inputs = example(rng)
    inputs["ids_one"] = texts(rng, inputs, B=2, T=3)[:, :1]
    inputs["ids_longest"] = texts(rng, inputs, B=2, T=inputs["longest"])
    got = yield Request("model.embed", inputs)
    expect("embedded_one", got, embedded(inputs, inputs["ids_one"]))
    expect("embedded_longest", got, embedded(inputs, inputs["ids_longest"]))


@case
def embed_dropout(rng):
    """embed: dropout on the sum, with the probability of the configuration"""
    inputs = example(rng)
    inputs["ids"] = texts(rng, inputs)
    got = yield Request("model.embed_dropout", inputs)

    # Held to the submission's own embedding, so that a mistake in it is not counted here again.
    kept = numbers("none", got, (*inputs["ids"].shape, inputs["C"]))
    if np.all(kept == 0):
        raise Wrong("with a dropout of 0 the embedding is 0 everywhere")
    expect("all", got, np.zeros_like(kept), atol=EXACT)
    half = numbers("half", got, kept.shape)
    dropped, doubled = np.abs(half) <= EXACT, np.abs(half - 2 * kept) <= 1e-5 + 1e-4 * np.abs(2 * kept)
    if not np.all(dropped | doubled):
        raise Wrong("with a dropout of 0.5 in training, a number of the embedding must become 0 or twice what it was; "
                    f"{(~(dropped | doubled)).sum()} of {kept.size} did not")
    if not 0.35 < dropped.mean() < 0.65:
        raise Wrong(f"a dropout of 0.5 set {dropped.sum()} of {kept.size} numbers to 0")


@case
def layers(rng):
    """encode: every layer once, in order"""
    inputs = example(rng)
    inputs["hidden"] = rng.normal(size=(3, 7, inputs["C"])).astype(np.float32)
    inputs["mask"] = np.ones((3, 7), dtype=np.int64)
    got = yield Request("model.encode", inputs)
    right = run_layers(inputs, inputs["hidden"], inputs["mask"])
    expect("encoded", got, right, final_norm(inputs, right))  # some apply the final norm here, some in forward


@case
def mask(rng):
    """encode: the layers get a mask that hides padding and holes"""
    inputs = example(rng, alike=True)  # so that the layers' order does not matter
    inputs["hidden"] = rng.normal(size=(3, 7, inputs["C"])).astype(np.float32)
    inputs["mask"] = holes(rng)
    got = yield Request("model.encode", inputs)
    right = run_layers(inputs, inputs["hidden"], inputs["mask"])
    expect("encoded", got, right, final_norm(inputs, right))


@case
def final_layer_norm(rng):
    """forward: the final LayerNorm once, with the configuration's eps"""
    inputs = example(rng, layers=1, eps=0.05)
    inputs["ids"], inputs["mask"] = texts(rng, inputs), np.ones((3, 7), dtype=np.int64)
    got = yield Request("model.forward", inputs)
    x = numbers("embedded", got, (3, 7, inputs["C"]))
    expect("last_hidden_state", got, final_norm(inputs, run_layers(inputs, x, inputs["mask"])))


@case
def forward(rng):
    """forward: the whole model"""
    inputs = example(rng)
    inputs["ids"], inputs["mask"] = texts(rng, inputs), holes(rng)
    got = yield Request("model.forward", inputs)
    x = numbers("embedded", got, (3, 7, inputs["C"]))
    expect("last_hidden_state", got, final_norm(inputs, run_layers(inputs, x, inputs["mask"])))


@case
def last_token(rng):
    """forward: last_token is each row's last token that is not padding"""
    inputs, T = example(rng, layers=1), 8
    lengths = rng.permutation(np.arange(1, T + 1))
    inputs["ids"] = texts(rng, inputs, B=T, T=T)
    inputs["mask"] = (np.arange(T) < lengths[:, None]).astype(np.int64)
    got = yield Request("model.forward", inputs)
    hidden = numbers("last_hidden_state", got, (T, T, inputs["C"]))
    expect("last_token", got, hidden[np.arange(T), lengths - 1], atol=EXACT, rtol=EXACT)


@case
def output_layer(rng):
    """hidden_state_to_token: hidden states [B, T, C] times the token embedding, transposed"""
    inputs = example(rng)
    inputs["hidden"] = rng.normal(size=(2, 5, inputs["C"])).astype(np.float32)
    got = yield Request("model.output_layer", inputs)
    expect("logits", got, inputs["hidden"].astype(np.float64) @ inputs["word_embedding.weight"].T)


@case
def output_layer_shapes(rng):
    """hidden_state_to_token: also [B, C] and [C]"""
    inputs = example(rng)
    for name, shape in (("hidden_rows", (3, inputs["C"])), ("hidden_one", (inputs["C"],))):
        inputs[name] = rng.normal(size=shape).astype(np.float32)
    got = yield Request("model.output_layer", inputs)
    for name in ("rows", "one"):
        expect(f"logits_{name}", got, inputs[f"hidden_{name}"].astype(np.float64) @ inputs["word_embedding.weight"].T)


@case
def gradients(rng):
    """A gradient reaches every weight"""
    inputs = example(rng)
    inputs["ids"], inputs["mask"] = 1 + rng.integers(inputs["V"] - 1, size=(3, 7)), holes(rng)
    inputs["direction"] = rng.normal(size=(3, 7, inputs["C"])).astype(np.float32)
    got = yield Request("model.gradients", inputs)
    for name in (name for name in inputs if "." in name):
        largest = np.abs(got[name]).max() if name in got and got[name].shape == inputs[name].shape else 0.0
        if not (np.isfinite(largest) and largest > EXACT):
            raise Wrong(f"no gradient reaches {name}: it can never learn")
