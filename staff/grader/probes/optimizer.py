"""What is asked of optimizer.py in the sandbox. Knows no answers.

Inputs of every probe:
    p0, p1, ...        first values of the parameters; in the group p0.group (0)
    p0.grads           [steps, ...], its gradients; p0.given [steps], False where there is none (None)
    p0.transposed      True for a parameter that is not contiguous in memory
    lr, betas, eps, weight_decay, correct_bias
                       arguments of AdamW; what is missing keeps its default. group1.lr, ...: options of a group
    lr.by_step         [steps, groups], learning rates that are set before each step
"""

import copy

import torch

OPTIONS = {"lr": float, "eps": float, "weight_decay": float, "correct_bias": bool,
           "betas": lambda betas: tuple(map(float, betas))}


def options(inputs, prefix=""):
    """Return the options that the inputs hold under a prefix, as AdamW takes them."""
    return {name: kind(inputs[prefix + name]) for name, kind in OPTIONS.items() if prefix + name in inputs}


def parameters(inputs):
    """Make the parameters p0, p1, ..."""
    made = {}
    while (name := f"p{len(made)}") in inputs:
        value = torch.from_numpy(inputs[name].copy())
        if inputs.get(f"{name}.transposed"):
            value = value.transpose(0, -1).contiguous().transpose(0, -1)
        made[name] = torch.nn.Parameter(value)
    return made


def optimizer_of(inputs, params, **more):
    """Make the submission's AdamW of some parameters, in groups where the inputs say so."""
    from optimizer import AdamW

    groups = {}
    for name, p in params.items():
        groups.setdefault(int(inputs.get(f"{name}.group", 0)), []).append(p)
    if len(groups) == 1:
        return AdamW(params.values(), **options(inputs) | more)
    return AdamW([{"params": groups[number]} | options(inputs, f"group{number}.") for number in sorted(groups)],
                 **options(inputs) | more)


def set_gradients(params, inputs, step):
    """Give each parameter its gradient of a step, in the tensor of the step before, as backward() does."""
    for name, p in params.items():
        if f"{name}.given" in inputs and not inputs[f"{name}.given"][step]:
            p.grad = None
        elif p.grad is None:
            p.grad = torch.tensor(inputs[f"{name}.grads"][step])
        else:
            p.grad.copy_(torch.tensor(inputs[f"{name}.grads"][step]))


def take_steps(optimizer, params, inputs, steps):
    """Take some steps; return the values after each: "p0 after step 1", ..."""
    values = {}
    for step in steps:
        if "lr.by_step" in inputs:
            for group, lr in zip(optimizer.param_groups, inputs["lr.by_step"][step], strict=True):
                group["lr"] = float(lr)
        set_gradients(params, inputs, step)
        optimizer.step()
        values |= {f"{name} after step {step + 1}": value for name, value in values_of(params).items()}
    return values


def values_of(params):
    """Return what the parameters hold now."""
    return {name: p.detach().numpy().copy() for name, p in params.items()}


def steps_of(inputs):
    """Return how many gradients each parameter has."""
    return len(inputs["p0.grads"])


def run(inputs):
    """Take all steps -> values after each, and the groups' learning rates at the end."""
    params = parameters(inputs)
    optimizer = optimizer_of(inputs, params)
    values = take_steps(optimizer, params, inputs, range(steps_of(inputs)))
    return values | {"lr at the end": [float(group["lr"]) for group in optimizer.param_groups]}


def kept(inputs):
    """Take all steps -> values after each; what is left of the last gradients; and whether each parameter is the same
    object in its group, still a leaf that asks for a gradient."""
    params = parameters(inputs)
    optimizer = optimizer_of(inputs, params)
    values = take_steps(optimizer, params, inputs, range(steps_of(inputs)))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for name, p in params.items():
        if p.grad is not None:
            values[f"{name}.grad"] = p.grad.numpy()
        values[f"{name} is held"] = any(p is other for other in held)
        values[f"{name} is trainable"] = p.is_leaf and p.requires_grad
    return values


def two_optimizers(inputs):
    """Take all steps; then all again with a new optimizer over the same parameters -> values after each of the second
    round, and before it."""
    params = parameters(inputs)
    first = optimizer_of(inputs, params)
    take_steps(first, params, inputs, range(steps_of(inputs)))
    between = values_of(params)
    values = take_steps(optimizer_of(inputs, params), params, inputs, range(steps_of(inputs)))
    return values | {f"{name} before": value for name, value in between.items()}


def state_dict(inputs):
    """Take half the steps, then the rest twice: with the same optimizer, and with a new one that has loaded its state
    -> values after each, and "p0 after step 3, loaded"."""
    params = parameters(inputs)
    optimizer = optimizer_of(inputs, params)
    half, steps = steps_of(inputs) // 2, steps_of(inputs)
    values = take_steps(optimizer, params, inputs, range(half))
    state = copy.deepcopy(optimizer.state_dict())
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}

    values |= take_steps(optimizer, params, inputs, range(half, steps))
    other = optimizer_of(inputs, copies, lr=10.0)  # the loaded learning rate must take the place of this one
    other.load_state_dict(state)
    loaded = take_steps(other, copies, inputs, range(half, steps))
    return values | {f"{name}, loaded": value for name, value in loaded.items()}


def closure(inputs):
    """Take a step with a closure that sets the gradients -> value, what step() returned (NaN for None), calls."""
    params = parameters(inputs)
    optimizer = optimizer_of(inputs, params)
    calls = []

    def loss():
        calls.append(1)
        set_gradients(params, inputs, 0)
        return torch.tensor(float(inputs["loss"]))

    returned = optimizer.step(loss)
    values = {f"{name} after step 1": value for name, value in values_of(params).items()}
    return values | {"returned": float("nan") if returned is None else float(returned), "calls": len(calls)}


def minimise(inputs):
    """Minimise sum(curvature (p0 - target)^2) / 2 in 200 steps -> p0."""
    params = parameters(inputs)
    optimizer = optimizer_of(inputs, params)
    curvature, target = torch.from_numpy(inputs["curvature"]), torch.from_numpy(inputs["target"])
    for _ in range(200):
        optimizer.zero_grad()
        (curvature * (params["p0"] - target) ** 2 / 2).sum().backward()
        optimizer.step()
    return values_of(params)
