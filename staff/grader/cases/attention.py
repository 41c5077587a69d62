"""Graded tests of modules/attention.py.

Three tests know the whole formula; the others each hold one property of it, so that one mistake does not cost all.
"""

import numpy as np

from staff.grader.case import Request, Wrong, case, expect, expect_all, numbers
from staff.grader.oracles import attention

NAMES = sorted(f"{linear}.{part}" for linear in ("query", "key", "value") for part in ("weight", "bias"))
PADDING = -1e4  # what the course's mask holds for a token that must not be seen


def example(rng, B=None, T=None, nh=None, hs=None, dtype=np.float32, **more):
    """Return the inputs of an attention with random weights, of random sizes where none are given, without padding."""
    B, T = B or int(rng.integers(2, 4)), T or int(rng.integers(6, 10))
    nh, hs = nh or int(rng.integers(3, 6)), hs or int(rng.integers(10, 15))
    C = nh * hs
    inputs = {"C": C, "nh": nh, "dropout": 0.0, "train": False, "x": rng.normal(size=(B, T, C)).astype(dtype),
              "mask": np.zeros((B, 1, 1, T), dtype)}
    for name in NAMES:
        size, scale = ((C, C), 1.5 / np.sqrt(C)) if name.endswith("weight") else (C, 0.3)
        inputs[name] = rng.normal(size=size, scale=scale).astype(dtype)
    return inputs | more


def holes(rng, inputs, value=PADDING):
    """Hide some tokens, other ones in each sequence, but never the first; return which [B, T]."""
    B, T = inputs["x"].shape[:2]
    hidden = rng.random((B, T)) < 0.4
    hidden[:, 0], hidden[:, T // 2], hidden[:, -1] = False, True, False
    hidden[0, 1] = not hidden[1 % B, 1]
    inputs["mask"] = np.where(hidden, value, 0.0)[:, None, None, :].astype(inputs["x"].dtype)
    return hidden


def attended(name, got, inputs):
    """Return outputs; raise Wrong if the last tokens see no others: properties that hold anyway are worth no points."""
    y = numbers(name, got, inputs["x"].shape)
    for alone in (inputs["x"], inputs["x"] @ inputs["value.weight"].T + inputs["value.bias"], y[:1, :1]):
        if (np.abs(y - alone)[:, -1] < 1e-3).all():
            raise Wrong(f"{name}: the last token sees no token but itself")
    return y


@case
def known_answer(rng):
    """The whole formula, where some tokens are hidden by the mask"""
    inputs = example(rng)
    holes(rng, inputs)
    expect("y", (yield Request("attention.forward", inputs)), attention(inputs))


@case
def known_answer_without_padding(rng):
    """The whole formula, where the mask hides nothing"""
    inputs = example(rng)
    expect("y", (yield Request("attention.forward", inputs)), attention(inputs))


@case
def shapes(rng):
    """One token, one sequence, one head, a thousand tokens, and other sizes"""
    long = int(rng.integers(900, 1025))
    sizes = [{"T": 1}, {"T": 2, "nh": 1}, {"B": 1, "nh": 7, "hs": 5}, {"B": 1, "T": long, "nh": 1, "hs": 4}]
    examples = [example(rng, **size) for size in sizes]
    got = yield Request("attention.forward", {f"{number}.{name}": value for number, inputs in enumerate(examples)
                                              for name, value in inputs.items()})
    expect_all(got, {f"{number}.y": attention(inputs) for number, inputs in enumerate(examples)})


@case
def causality(rng):
    """A token sees itself and the tokens before it, and no later one"""
    inputs = example(rng, B=1)
    T = inputs["x"].shape[1]
    # Sequence j differs from the last one in token j alone.
    inputs["x"] = np.repeat(inputs["x"], T + 1, axis=0)
    for j in range(T):
        inputs["x"][j, j] = rng.normal(size=inputs["C"])
    inputs["mask"] = np.zeros((T + 1, 1, 1, T), np.float32)
    y = numbers("y", (yield Request("attention.forward", inputs)), inputs["x"].shape)
    changes = np.abs(y[:-1] - y[-1]).max(axis=-1)  # [j, i]: of output i, when token j changes
    for j in range(T):
        if (changes[j, :j] > 1e-5).any():
            i = int(np.argmax(changes[j, :j] > 1e-5))
            raise Wrong(f"when token {j} changes, the output of token {i} before it changes by {changes[j, i]:.2g}")
        if (changes[j, j:] < 1e-6).any():
            i = j + int(np.argmax(changes[j, j:] < 1e-6))
            raise Wrong(f"when token {j} changes, the output of token {i} stays as it is: it must see token {j}")


@case
def padding(rng):
    """A token that the mask hides is seen by no other token"""
    inputs = example(rng, B=2)
    hidden = holes(rng, inputs, rng.choice([PADDING, np.finfo(np.float32).min]))
    # The second half is the first, with other numbers in the hidden tokens.
    changed = np.where(hidden[..., None], rng.normal(size=inputs["x"].shape), inputs["x"]).astype(np.float32)
    inputs["x"], inputs["mask"] = np.concatenate([inputs["x"], changed]), np.concatenate([inputs["mask"]] * 2)
    y = attended("y", (yield Request("attention.forward", inputs)), inputs)
    changes = np.abs(y[:2] - y[2:]).max(axis=-1)
    if (seen := (changes > 1e-5) & ~hidden).any():
        b, i = np.argwhere(seen)[0]
        raise Wrong(f"sequence {b}: when the tokens {np.flatnonzero(hidden[b]).tolist()}, which the mask hides, change,"
                    f" the output of token {i} changes by {changes[b, i]:.2g}")


@case
def dropout(rng):
    """In training, dropout with probability 1 leaves nothing"""
    inputs = example(rng, dropout=1.0, train=True)
    got = yield Request("attention.dropout", inputs)
    attended("y without dropout", got, inputs)
    expect_all(got, {"y": np.zeros(inputs["x"].shape)}, atol=0.0)


@case
def dropout_on_weights(rng):
    """In training, dropout forgets a token for a whole head, not single numbers of it"""
    inputs = example(rng, B=40, T=1, dropout=0.5, train=True)
    got = yield Request("attention.dropout", inputs)
    heads = (40, inputs["nh"], inputs["C"] // inputs["nh"])
    y, whole = (numbers(name, got, inputs["x"].shape).reshape(heads) for name in ("y", "y without dropout"))
    # One token sees itself alone, with the weight 1: dropout makes that 0, or 1 / (1 - 0.5).
    gone, doubled = (np.isclose(y, factor * whole, atol=1e-4).all(axis=-1) for factor in (0, 2))
    if (neither := ~(gone | doubled)).any():
        b, head = np.argwhere(neither)[0]
        raise Wrong(f"sequence {b} of one token, head {head}, dropout 0.5: the output is neither 0 nor twice the value,"
                    f" but {np.round(y[b, head, :3], 3).tolist()}... for {np.round(whole[b, head, :3], 3).tolist()}...")
    if gone.all() or not gone.any():
        raise Wrong(f"dropout 0.5 forgot {int(gone.sum())} of {gone.size} weights")


@case
def dropout_in_eval(rng):
    """In eval mode, dropout does nothing"""
    inputs = example(rng, dropout=0.9)
    got = yield Request("attention.dropout", inputs)
    expect_all(got, {"y": attended("y without dropout", got, inputs)})


@case
def large_scores(rng):
    """Very large scores give finite numbers"""
    inputs = example(rng)
    for name in ("query.weight", "key.weight"):
        inputs[name] *= 1e3
    attended("y", (yield Request("attention.forward", inputs)), inputs)


@case
def batch(rng):
    """Each sequence of a batch is alone: in another order, the outputs are the same"""
    inputs = example(rng, B=4)
    holes(rng, inputs)
    order = np.roll(np.arange(4), int(rng.integers(1, 4)))
    both = {f"0.{name}": value for name, value in inputs.items()}
    both |= {f"1.{name}": value[order] if name in ("x", "mask") else value for name, value in inputs.items()}
    got = yield Request("attention.forward", both)
    expect_all(got, {"1.y": attended("0.y", got, inputs)[order]})


@case
def gradients(rng):
    """Gradients reach the input, and the query, key and value weights"""
    inputs = example(rng, dtype=np.float64)
    inputs |= directions(rng, inputs, ["x", *NAMES])
    got = yield Request("attention.gradients", inputs)
    attended("y", got, inputs)
    expect_gradients(got, inputs, ["x", *NAMES])


def directions(rng, inputs, names):
    """Return random arrays "x along", ..., and "y along" for the output."""
    shapes = {name: inputs[name].shape for name in names} | {"y": inputs["x"].shape}
    return {f"{name} along": rng.normal(size=shape) for name, shape in shapes.items()}


def expect_gradients(got, inputs, names):
    """Raise Wrong unless each gradient says how the output changes, whatever the output is."""
    for name in names:
        slope = (numbers(f"gradient of {name}", got, inputs[name].shape) * inputs[f"{name} along"]).sum()
        change = numbers(f"change by {name}", got, ()).item()
        if not abs(slope - change) <= 0.05 + 0.01 * abs(change):
            raise Wrong(f"gradient of {name}: along a random direction, the output changes at the rate {change:.4g}; "
                        f"by the gradient, it would be {slope:.4g}")


@case
def inputs_unchanged(rng):
    """A call leaves its input and the mask as they are, and a second call gives the same"""
    inputs = example(rng)
    holes(rng, inputs)
    got = yield Request("attention.twice", inputs)
    expect_all(got, {"x": inputs["x"], "mask": inputs["mask"]}, atol=0.0, rtol=0.0)
    expect_all(got, {"second y": attended("first y", got, inputs)})


@case
def state_dict(rng):
    """The module saves the weights and biases of query, key and value, and nothing else"""
    inputs = example(rng)
    got = yield Request("attention.state_dict", inputs)
    attended("y", got, inputs)
    expect_names(got, NAMES)


def expect_names(got, right):
    """Raise Wrong unless a state_dict has the right names."""
    found = set(np.atleast_1d(got.get("names", [])).tolist())
    if missing := sorted(set(right) - found):
        raise Wrong(f"state_dict() lacks {missing[0]}")
    if found - set(right):
        raise Wrong(f"state_dict() holds {len(found - set(right))} more than the weights: a buffer that is not to be "
                    "saved takes persistent=False")


@case
def float64(rng):
    """Inputs in float64 give outputs in float64"""
    inputs = example(rng, dtype=np.float64)
    got = yield Request("attention.forward", inputs)
    attended("y", got, inputs)
    if got["y"].dtype != np.float64:
        raise Wrong(f"y is of the type {got['y'].dtype}, not float64")


@case
def any_device(rng):
    """Tensors are made on the device of the input"""
    inputs = example(rng)
    got = yield Request("attention.devices", inputs)
    attended("y", got, inputs)
    if "mixed" in got:
        raise Wrong(f"on a GPU, {str(got['mixed'])[:40]} would be given tensors of two devices: one was made without "
                    "device=...")
