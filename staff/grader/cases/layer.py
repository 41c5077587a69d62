"""Graded tests of modules/gpt2_layer.py. Its attention is a stub, so that a mistake there costs nothing here.

Both forms of GELU are right everywhere. Two tests know half of the layer each, the other half's dense layer being
zero; one knows it all.
"""

import numpy as np

from staff.grader.case import Request, Wrong, case, expect, expect_all, numbers
from staff.grader.cases.attention import NAMES as ATTENTION
from staff.grader.cases.attention import directions, expect_gradients, expect_names
from staff.grader.oracles import GELUS, layer, linear

DENSE, NORMS = ("attention_dense", "interm_dense", "out_dense"), ("attention_layer_norm", "out_layer_norm")
NAMES = sorted([f"{name}.{part}" for name in DENSE + NORMS for part in ("weight", "bias")]
               + [f"self_attention.{name}" for name in ATTENTION])


def example(rng, dtype=np.float32, **more):
    """Return the inputs of a layer with random weights (gains of norms too: all 1, they would hide mistakes)."""
    B, T, C, inner = (int(rng.integers(*limits)) for limits in ((2, 4), (5, 9), (20, 41), (60, 121)))
    inputs = {"C": C, "inner": inner, "attention_dropout": 0.0, "out_dropout": 0.0, "train": False,
              "x": rng.normal(0.5, 1.5, (B, T, C)).astype(dtype),
              "mask": rng.uniform(-1, 1, (B, 1, 1, T)).astype(dtype)}  # the stub takes any numbers
    for name in NAMES:
        rows = inner if name.startswith("interm") else C
        columns = inner if name.startswith("out_dense") else C
        if "norm" in name:
            value = rng.normal(float(name.endswith("weight")), 0.3, C)
        else:
            value = rng.normal(0, 0.3, rows) if name.endswith("bias") else rng.normal(0, columns**-0.5, (rows, columns))
        inputs[name] = value.astype(dtype)
    return inputs | more


def without(inputs, *dense):
    """Make the weights and biases of some dense layers zero."""
    return inputs | {f"{name}.{part}": inputs[f"{name}.{part}"] * 0 for name in dense for part in ("weight", "bias")}


def stub(inputs, x, prefix):
    """Return what stubs/layer/modules/attention.py makes of x under the inputs' mask."""
    mask = inputs["mask"].astype(np.float64)[:, 0, 0, :, None]
    return linear(inputs, f"{prefix}query", x) + (1 + mask) * linear(inputs, f"{prefix}key", np.roll(x, 1, axis=1))


def expect_right(inputs, got):
    """Raise Wrong unless y is right with one of the forms of GELU; return which, in words."""
    return f"GELU: {GELUS[expect('y', got, *(layer(inputs, form, attend=stub) for form in GELUS))]}"


@case
def known_answer(rng):
    """The whole layer"""
    inputs = example(rng)
    return expect_right(inputs, (yield Request("layer.forward", inputs)))


@case
def attention_half(rng):
    """The first half: norm, attention, dense layer, residual connection"""
    inputs = without(example(rng), "out_dense")
    expect_right(inputs, (yield Request("layer.forward", inputs)))


@case
def feed_forward_half(rng):
    """The second half: norm, dense layer, GELU, dense layer, residual connection"""
    inputs = without(example(rng), "attention_dense")
    return expect_right(inputs, (yield Request("layer.forward", inputs)))


@case
def residual(rng):
    """Where the dense layers add only their biases, the input goes through as it is"""
    inputs = example(rng)
    for name in ("attention_dense.weight", "out_dense.weight"):
        inputs[name] = inputs[name] * 0
    expect_right(inputs, (yield Request("layer.forward", inputs)))


def changed(name, got, inputs):
    """Return outputs; raise Wrong if they are the input: properties that hold anyway are worth no points."""
    y = numbers(name, got, inputs["x"].shape)
    if np.abs(y - inputs["x"]).max() < 1e-3:
        raise Wrong("the layer adds nothing to its input")
    return y


def expect_gone(got, inputs, branch):
    """Raise Wrong unless dropout with probability 1 takes a branch away, and no more than that."""
    shape = inputs["x"].shape
    y, whole, right = (numbers(name, got, shape) for name in ("y", "y without dropout", "y without the branch"))
    if np.abs(whole - right).max() < 1e-3:
        raise Wrong(f"the {branch} half adds nothing, even without dropout")
    if np.abs(y - whole).max() < 1e-3:
        raise Wrong(f"dropout with probability 1 changes nothing in the {branch} half")
    expect_all({"y": y}, {"y": right})


@case
def attention_dropout(rng):
    """In training, attention_dropout with probability 1 takes all that the first half adds, and nothing else"""
    inputs = example(rng, train=True, attention_dropout=1.0, zeroed=np.array(["attention_dense"]))
    expect_gone((yield Request("layer.dropout", inputs)), inputs, "attention")


@case
def out_dropout(rng):
    """In training, out_dropout with probability 1 takes all that the second half adds, and nothing else"""
    inputs = example(rng, train=True, out_dropout=1.0, zeroed=np.array(["out_dense"]))
    expect_gone((yield Request("layer.dropout", inputs)), inputs, "feed-forward")


@case
def dropout_in_eval(rng):
    """In eval mode, dropout does nothing"""
    inputs = example(rng, attention_dropout=0.9, out_dropout=0.9, zeroed=np.array([], "U1"))
    got = yield Request("layer.dropout", inputs)
    expect_all(got, {"y": changed("y without dropout", got, inputs)})


@case
def gradients(rng):
    """Gradients reach the input and every weight"""
    inputs = example(rng, dtype=np.float64)
    names = ["x", *(name for name in NAMES if "self_attention.value" not in name)]  # the stub does not use it
    inputs |= directions(rng, inputs, names)
    got = yield Request("layer.gradients", inputs)
    changed("y", got, inputs)
    expect_gradients(got, inputs, names)


@case
def inputs_unchanged(rng):
    """A call leaves its input and the mask as they are, and a second call gives the same"""
    inputs = example(rng)
    got = yield Request("layer.twice", inputs)
    expect_all(got, {"x": inputs["x"], "mask": inputs["mask"]}, atol=0.0, rtol=0.0)
    expect_all(got, {"second y": changed("first y", got, inputs)})


@case
def state_dict(rng):
    """The layer saves the weights and biases of its parts, and nothing else"""
    inputs = example(rng)
    got = yield Request("layer.state_dict", inputs)
    changed("y", got, inputs)
    expect_names(got, NAMES)


@case
def float64(rng):
    """Inputs in float64 give outputs in float64"""
    inputs = example(rng, dtype=np.float64)
    got = yield Request("layer.forward", inputs)
    changed("y", got, inputs)
    if got["y"].dtype != np.float64:
        raise Wrong(f"y is of the type {got['y'].dtype}, not float64")
