"""What is asked of modules/gpt2_layer.py in the sandbox, with a stub for attention. Knows no answers.

Inputs of every probe: C, inner, train; attention_dropout, out_dropout (probabilities); x [B, T, C], mask [B, 1, 1, T];
and the weights by their names in the module: attention_dense.weight, self_attention.query.weight, ...
"""

import torch


def build(inputs, **more):
    """Make the submission's layer, with the weights, type and mode of the inputs. more: other inputs."""
    from models.config import GPT2Config
    from modules.gpt2_layer import GPT2Layer

    inputs = inputs | more
    torch.manual_seed(0)
    config = GPT2Config(hidden_size=int(inputs["C"]), num_attention_heads=1, intermediate_size=int(inputs["inner"]),
                        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=64)
    module = GPT2Layer(config)
    own = dict(module.named_parameters())
    weights = {name: torch.from_numpy(value) for name, value in inputs.items() if name.endswith((".weight", ".bias"))}
    if missing := sorted(set(weights) - set(own)):
        raise AttributeError(f"the module has no parameter {missing[0]}")
    for name in ("attention_dropout", "out_dropout"):
        getattr(module, name).p = float(inputs[name])
    x, mask = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["mask"])
    module = module.to(x.dtype).train(bool(inputs["train"]))
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    return module, x, mask


def call(module, *arguments):
    """Return what the module makes of its arguments, as an array."""
    return module(*arguments).detach().numpy()


@torch.no_grad()
def forward(inputs):
    """-> y [B, T, C]."""
    return {"y": call(*build(inputs))}


@torch.no_grad()
def dropout(inputs):
    """-> y with the dropouts of the inputs; without them; and without them, the dense layers in `zeroed` being zero."""
    without = {"attention_dropout": 0.0, "out_dropout": 0.0}
    zero = {f"{name}.{part}": inputs[f"{name}.{part}"] * 0 for name in inputs["zeroed"].tolist()
            for part in ("weight", "bias")}
    return {"y": call(*build(inputs)), "y without dropout": call(*build(inputs, **without)),
            "y without the branch": call(*build(inputs, **without, **zero))}


@torch.no_grad()
def twice(inputs):
    """Call the same module twice on the same tensors -> first y, second y, and what is left of x and mask."""
    module, x, mask = build(inputs)
    first, second = call(module, x, mask), call(module, x, mask)
    return {"first y": first, "second y": second, "x": x.numpy(), "mask": mask.numpy()}


def gradients(inputs):
    """Differentiate loss = sum(y * "y along") -> y; for x and each parameter, its gradient; and how fast the loss
    changes when it moves along an array ("x along", ...): (loss(x + h along) - loss(x - h along)) / 2h."""
    module, x, mask = build(inputs)
    along = {name.removesuffix(" along"): torch.from_numpy(value) for name, value in inputs.items()
             if name.endswith(" along")}
    places = {"x": x.requires_grad_()} | dict(module.named_parameters())
    y = module(x, mask)
    (y * along["y"]).sum().backward()
    found = {f"gradient of {name}": p.grad.numpy() for name, p in places.items() if p.grad is not None}

    h = 1e-3
    with torch.no_grad():
        for name in [name for name in along if name in places]:
            losses = []
            for far in (h, -h):
                places[name] += far * along[name]
                losses.append((module(x, mask) * along["y"]).sum())
                places[name] -= far * along[name]
            found[f"change by {name}"] = (losses[0] - losses[1]) / (2 * h)
    return found | {"y": y.detach().numpy()}


@torch.no_grad()
def state_dict(inputs):
    """-> y, and the names of what the module saves."""
    module, x, mask = build(inputs)
    return {"y": call(module, x, mask), "names": sorted(module.state_dict())}
