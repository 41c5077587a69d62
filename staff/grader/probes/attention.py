"""What is asked of modules/attention.py in the sandbox. Knows no answers.

Inputs of every probe: C, nh, dropout, train; x [B, T, C], mask [B, 1, 1, T] (added to the scores); and the weights by
their names in the module: query.weight, ... Several of them have a prefix each: "0.", "1.", ...
"""

import torch


def build(inputs, prefix="", **more):
    """Make the submission's attention, with the weights, type and mode of the inputs. more: other inputs."""
    from models.config import GPT2Config
    from modules.attention import CausalSelfAttention

    inputs = {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)} | more
    torch.manual_seed(0)
    config = GPT2Config(hidden_size=int(inputs["C"]), num_attention_heads=int(inputs["nh"]), hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=float(inputs["dropout"]), max_position_embeddings=1024)
    module = CausalSelfAttention(config)
    own = dict(module.named_parameters())
    weights = {name: torch.from_numpy(value) for name, value in inputs.items() if name.endswith((".weight", ".bias"))}
    if missing := sorted(set(weights) - set(own)):
        raise AttributeError(f"the module has no parameter {missing[0]}")
    x, mask = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["mask"])
    module = module.to(x.dtype).train(bool(inputs["train"]))
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    return module, x, mask


@torch.no_grad()
def forward(inputs):
    """-> y [B, T, C]; of several attentions, 0.y, 1.y, ..."""
    prefixes = [name.removesuffix("x") for name in inputs if name.removesuffix("x") != name]
    return {f"{prefix}y": call(*build(inputs, prefix)) for prefix in prefixes}


def call(module, *arguments):
    """Return what the module makes of its arguments, as an array."""
    return module(*arguments).detach().numpy()


@torch.no_grad()
def dropout(inputs):
    """-> y with the dropout of the inputs, and y without dropout, in the mode of the inputs."""
    return {"y": call(*build(inputs)), "y without dropout": call(*build(inputs, dropout=0.0))}


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


@torch.no_grad()
def devices(inputs):
    """-> y, and `mixed`, the name of the first function that would be given tensors of two devices on a GPU."""
    with TwoDevices() as two:
        module, x, mask = build(inputs)
        two.made_here = [tensor for tensor in two.made_here  # x, mask, the weights and the buffers are moved to the GPU
                         if not any(tensor is moved for moved in (x, mask, *module.parameters(), *module.buffers()))]
        two.mixed = ""
        outputs = {"y": call(module, x, mask)}
    return outputs | ({"mixed": two.mixed} if two.mixed else {})


class TwoDevices(torch.overrides.TorchFunctionMode):
    """Follow tensors that were made without device=...: were the input on a GPU, they would not be there."""

    ANYWHERE = ("copy_", "__getitem__", "__setitem__", "view_as", "expand_as", "reshape_as")
    "Functions that take tensors of two devices."

    def __init__(self):
        super().__init__()
        self.made_here, self.mixed = [], ""

    def here(self, tensor):
        """Whether a tensor would be on the CPU."""
        return any(tensor is other for other in self.made_here)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result, name = function(*args, **(kwargs or {})), getattr(function, "__name__", "")
        given, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        tensors = [value for value in given if isinstance(value, torch.Tensor) and value.dim()]  # numbers go anywhere
        device = [value for value in given if isinstance(value, torch.device)]
        if name in ("to", "type_as") and len(tensors) > 1:
            tensors = tensors[1:]
        here = not device and (name == "cpu" or all(map(self.here, tensors)))
        if not here and name not in self.ANYWHERE and any(map(self.here, tensors)) and not device:
            self.mixed = self.mixed or name
        if here and isinstance(result, torch.Tensor) and not self.here(result):
            self.made_here.append(result)
        return result
