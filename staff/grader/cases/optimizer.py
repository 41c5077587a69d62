"""Graded tests of optimizer.py.

Each test but those about it has a tiny eps and no decay, so that one mistake costs the tests about it, not all. Both
forms of the bias correction are right everywhere; so is decay before the update, but in `decay_after_update`.
"""

from itertools import product

import numpy as np

from staff.grader.case import Request, Wrong, at, case, expect, expect_all, numbers
from staff.grader.oracles import FORMS, ORDERS, adamw

LR = 0.1  # as large as the parameters, nearly: a wrong step shows


def problem(rng, steps, *shapes, smallest=0.5, largest=5.0, dtype=np.float32, **options):
    """Return inputs: parameters of some shapes, with gradients whose sizes lie between two numbers."""
    inputs = {"lr": LR, "eps": 1e-8} | {name: np.asarray(value) for name, value in options.items()}
    for number, shape in enumerate(shapes or [shape_of(rng)]):
        inputs[f"p{number}"] = signed(rng, shape, 0.5, 1.5).astype(dtype)
        inputs[f"p{number}.grads"] = signed(rng, (steps, *shape), smallest, largest).astype(dtype)
    return inputs


def signed(rng, shape, smallest, largest):
    """Return numbers of random sign, whose sizes lie between two numbers, evenly by their logarithms."""
    return rng.choice([-1.0, 1.0], shape) * np.exp(rng.uniform(np.log(smallest), np.log(largest), shape))


def shape_of(rng):
    """Return a random shape of a matrix."""
    return tuple(map(int, rng.integers(3, 8, 2)))


def answers(inputs, forms=FORMS, orders=ORDERS):
    """Return every right set of values: "p0 after step 1", ..., by AdamW's form and order."""
    return {which: values(inputs, *which) for which in product(forms, orders)}


def values(inputs, form, order):
    """Return the values of all parameters after each step."""
    after, number = {}, 0
    while (name := f"p{number}") in inputs:
        group = int(inputs.get(f"{name}.group", 0))
        options = {key: inputs.get(f"group{group}.{key}", inputs.get(key))
                   for key in ("lr", "betas", "eps", "weight_decay", "correct_bias")}
        options = {key: value for key, value in options.items() if value is not None}
        if "lr.by_step" in inputs:
            options["lr"] = inputs["lr.by_step"][:, group]
        grads = list(inputs[f"{name}.grads"])
        given = inputs.get(f"{name}.given", np.ones(len(grads), bool))
        grads = [g if has else None for g, has in zip(grads, given, strict=True)]
        for step, value in enumerate(adamw(inputs[name], grads, form, order, **options), 1):
            after[f"{name} after step {step}"] = value
        number += 1
    return after


def expect_right(inputs, got, **which):
    """Raise Wrong unless all values are right, in one form and one order; return which, in words."""
    right = answers(inputs, **which)
    form, order = list(right)[expect_all(got, *right.values())]
    return f"{form} form, decay {order} the update"


def expect_against(got, name, before, grad):
    """Raise Wrong unless every number of a parameter has moved against its first gradient, as in any AdamW."""
    after = numbers(f"{name} after step 1", got, before.shape)
    still = (after - before) * grad >= 0
    if still.any():
        place = tuple(np.argwhere(still)[0])
        raise Wrong(f"{name}{at(place)} was {before[place]:.6g} and its gradient {grad[place]:.6g}; "
                    f"after one step it is {after[place]:.6g}: it must move against the gradient")


@case
def first_step(rng):
    """The first step from known gradients"""
    inputs = problem(rng, 1)
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def six_steps(rng):
    """Six steps: the two running means, and their correction"""
    inputs = problem(rng, 6)
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def fifty_steps(rng):
    """Fifty steps, in float32"""
    inputs = problem(rng, 50)
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def no_bias_correction(rng):
    """Steps with correct_bias=False"""
    inputs = problem(rng, 4, correct_bias=False)
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def betas(rng):
    """Steps with other betas"""
    inputs = problem(rng, 4, betas=(rng.uniform(0.6, 0.8), rng.uniform(0.9, 0.97)))
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def eps(rng):
    """Steps with a large eps and small gradients"""
    inputs = problem(rng, 4, smallest=0.02, largest=0.2, eps=rng.uniform(0.01, 0.02))
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def weight_decay(rng):
    """Steps with a large weight decay"""
    inputs = problem(rng, 3, weight_decay=rng.uniform(0.3, 0.5))
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def decay_after_update(rng):
    """Weight decay comes after the update, not before it"""
    inputs = problem(rng, 3, weight_decay=rng.uniform(0.4, 0.6))
    return expect_right(inputs, (yield Request("optimizer.run", inputs)), orders=["after"])


@case
def zero_gradient(rng):
    """Gradients of zero still count as a step, and the weights still decay"""
    inputs = problem(rng, 3, weight_decay=rng.uniform(0.3, 0.5))
    inputs["p0.grads"][0] = 0.0
    inputs["p0.grads"][1, ::2] = 0.0
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def missing_gradient(rng):
    """A parameter without a gradient stays as it is, whatever the weight decay"""
    inputs = problem(rng, 2, shape_of(rng), shape_of(rng), weight_decay=0.01)
    inputs["p1.given"] = np.zeros(2, bool)
    got = yield Request("optimizer.run", inputs)
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])
    expect_all(got, {f"p1 after step {step}": inputs["p1"] for step in (1, 2)}, atol=0.0, rtol=0.0)


@case
def two_parameters(rng):
    """Each parameter has its own running means, and counts its own steps"""
    shape = shape_of(rng)
    inputs = problem(rng, 5, shape, shape, shape_of(rng))
    inputs["p1.given"] = np.array([False, True, False, True, True])
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def two_groups(rng):
    """Two groups of parameters, each with its own lr, betas and weight decay"""
    inputs = problem(rng, 4, shape_of(rng), shape_of(rng), lr=0.5, weight_decay=0.9, betas=(0.3, 0.6))
    for group in range(2):
        inputs |= {f"p{group}.group": group, f"group{group}.lr": LR * rng.uniform(0.5, 1.5),
                   f"group{group}.betas": np.array([rng.uniform(0.7, 0.9), rng.uniform(0.9, 0.99)]),
                   f"group{group}.weight_decay": rng.uniform(0.2, 0.5)}
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def changed_lr(rng):
    """A learning rate that a scheduler changes is used, and left as it is"""
    inputs = problem(rng, 4) | {"lr.by_step": LR * rng.uniform(0.3, 1.5, (4, 1))}
    got = yield Request("optimizer.run", inputs)
    expect("lr at the end", got, inputs["lr.by_step"][-1])
    return expect_right(inputs, got)


@case
def shapes(rng):
    """Parameters of every shape: a number, a vector, three dimensions, not contiguous"""
    a, b, c, d, e = map(int, rng.integers(2, 6, 5))
    inputs = problem(rng, 3, (), (a,), (b, c, d), (e, a + 1)) | {"p3.transposed": True}
    return expect_right(inputs, (yield Request("optimizer.run", inputs)))


@case
def float64(rng):
    """Parameters in float64 stay in float64"""
    inputs = problem(rng, 3, dtype=np.float64)
    got = yield Request("optimizer.run", inputs)
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])
    for name in answers(inputs)["efficient", "after"]:
        numbers(name, got, inputs["p0"].shape)
        if got[name].dtype != np.float64:
            raise Wrong(f"{name} is of the type {got[name].dtype}, not float64")


@case
def gradient_unchanged(rng):
    """A step leaves the gradients as they are"""
    inputs = problem(rng, 2, shape_of(rng), shape_of(rng), weight_decay=0.01)
    got = yield Request("optimizer.kept", inputs)
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])
    expect_all(got, {f"p{number}.grad": inputs[f"p{number}.grads"][-1] for number in range(2)}, atol=0.0, rtol=0.0)


@case
def same_parameter(rng):
    """A step changes the parameter itself, which stays trainable: no copy takes its place"""
    inputs = problem(rng, 2)
    got = yield Request("optimizer.kept", inputs)
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])
    if not numbers("p0 is held", got, ()):
        raise Wrong("after a step, param_groups holds another object than the parameter it was given")
    if not numbers("p0 is trainable", got, ()):
        raise Wrong("after a step, the parameter is not a leaf that requires a gradient")


@case
def two_optimizers(rng):
    """A new optimizer over the same parameters starts afresh"""
    inputs = problem(rng, 3)
    got = yield Request("optimizer.two_optimizers", inputs)
    return expect_right(inputs | {"p0": numbers("p0 before", got, inputs["p0"].shape)}, got)


@case
def state_dict(rng):
    """Steps after state_dict() and load_state_dict() are those of an unbroken run"""
    inputs = problem(rng, 6, shape_of(rng), shape_of(rng), weight_decay=0.01)
    got = yield Request("optimizer.state_dict", inputs)
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])
    names = [f"p{number} after step {step}" for step in (4, 5, 6) for number in range(2)]
    unbroken = {f"{name}, loaded": numbers(name, got, inputs[name[:2]].shape) for name in names}
    expect_all(got, unbroken, atol=1e-6, rtol=1e-5)


@case
def closure(rng):
    """step(closure) calls the closure once, uses its gradients and returns its loss"""
    inputs = problem(rng, 1) | {"loss": rng.uniform(1, 9)}
    got = yield Request("optimizer.closure", inputs)
    if (calls := int(numbers("calls", got, ()))) != 1:
        raise Wrong(f"the closure was called {calls} times, not once")
    if np.isnan(numbers("returned", got, (), finite=False)):
        raise Wrong("step(closure) returned no loss")
    expect("returned", got, inputs["loss"])
    expect_against(got, "p0", inputs["p0"], inputs["p0.grads"][0])


@case
def minimum(rng):
    """200 steps bring a sum of squares near its minimum"""
    inputs = problem(rng, 1, lr=0.05)
    shape = inputs["p0"].shape
    inputs |= {"curvature": rng.uniform(0.5, 5.0, shape).astype(np.float32),
               "target": (inputs["p0"] + signed(rng, shape, 0.5, 1.5)).astype(np.float32)}
    found = numbers("p0", (yield Request("optimizer.minimise", inputs)), shape)
    start, end = (float((inputs["curvature"] * (p - inputs["target"]) ** 2).sum() / 2) for p in (inputs["p0"], found))
    if end > 0.02 * start:
        raise Wrong(f"after 200 steps the sum is {end:.3g}, and was {start:.3g} at the start")
