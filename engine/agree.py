"""Holds the engine to the definition: the files that the student wrote decide what is computed.

Both compute with the same weights on small random inputs, and must give the same results and gradients. Dropout is
random, so it is compared where it is not: with all probabilities 0, and with one at a time at 1.
"""

import contextlib
import math
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.adamw import FastAdamW
from engine.gpt2 import FastGPT2

EVAL = "in eval mode"
TOLERANCE = 3e-5
"""Of results, relative to the largest where that is above 1. float32 rounding makes 1e-6 here; the nearest mistake, the
exact GELU in place of the tanh form, 5e-4."""


@dataclass(frozen=True)
class Agreement:
    """How far engine and definition are apart."""

    difference: float
    "Relative to the largest result, or absolute where that is below 1; infinite where they cannot be compared."
    file: str = ""
    "If they differ: the student's file that differs."
    condition: str = ""
    "If they differ: under which condition."
    gelu: str = "tanh"
    "The form of GELU with which they were compared."

    def __bool__(self) -> bool:
        return self.difference <= TOLERANCE

    def __str__(self) -> str:
        if self:
            form = " (GELU in its exact form)" if self.gelu == "none" else ""
            return f"agrees with your code to {self.difference:.0e}{form}"
        if math.isinf(self.difference):
            return f"{self.file} cannot be compared ({self.condition}): your code runs as it is"
        return f"{self.file} differs by {self.difference:.2g} ({self.condition}): your code runs, slower"


def check(gpt: nn.Module, num_heads: int, vocab_size: int, definition: type[torch.optim.Optimizer],
          logits: bool = False) -> tuple[Agreement, Agreement | None]:
    """Compare the engine with a small GPT-2 and with an AdamW, on the GPT-2's device, and print how that went.

    Returns both agreements; None for AdamW on a device that PyTorch's fused kernel is not used on.
    """
    device = next(gpt.parameters()).device
    gpt2 = check_gpt2(gpt, num_heads, vocab_size, logits)
    adamw = check_adamw(definition, device) if device.type in ("cpu", "cuda") else None
    report(*(agreement for agreement in (gpt2, adamw) if agreement is not None))
    return gpt2, adamw


def check_gpt2(gpt: nn.Module, num_heads: int, vocab_size: int, logits: bool = False) -> Agreement:
    """Compare FastGPT2 with gpt(input_ids, attention_mask), a small model; its weights are overwritten.

    logits: compare hidden_state_to_token, too. GELU is tried in both of its forms.
    """
    tanh = compare_gpt2(gpt, FastGPT2(gpt, num_heads), vocab_size, logits)
    return tanh or compare_gpt2(gpt, FastGPT2(gpt, num_heads, gelu="none"), vocab_size, logits) or tanh


def report(*agreements: Agreement) -> None:
    """Print what differs, a line each; one line if everything agrees."""
    differing = [agreement for agreement in agreements if not agreement]
    for agreement in differing or [max(agreements, key=lambda agreement: agreement.difference)]:
        print(f"engine: {agreement}")


def compare_gpt2(gpt: nn.Module, fast: FastGPT2, vocab_size: int, logits: bool = False) -> Agreement:
    """The worst agreement under any condition, or the first disagreement. Dropouts and generators stay as they were."""
    device = next(gpt.parameters()).device
    worst = 0.0
    before = {module: module.p for module in gpt.modules() if isinstance(module, nn.Dropout)}
    with one_thread(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            randomise(gpt)
            for condition, dropouts in conditions(gpt):
                gpt.train(condition != EVAL)
                for module in before:
                    module.p = dropouts.get(module, 0.0)
                for holes in (False, True):
                    ids, mask = (tensor.to(device) for tensor in texts(vocab_size, holes=holes))
                    difference, file = compare_once(gpt, fast, ids, mask, holes, logits)
                    if not difference <= TOLERANCE:
                        return Agreement(difference, file, condition, fast.gelu)
                    worst = max(worst, difference)
        except NotImplementedError:
            raise  # a hole in the student's file: there is nothing to compare yet
        except Exception as error:  # code that somebody else wrote may raise anything
            return Agreement(math.inf, file_in(error), in_one_line(error), fast.gelu)
        finally:
            for module, p in before.items():
                module.p = p
    return Agreement(worst, gelu=fast.gelu)


def compare_once(gpt: nn.Module, fast: FastGPT2, ids: Tensor, mask: Tensor, holes: bool,
                 logits: bool) -> tuple[float, str]:
    """The largest difference of results and gradients, and the file that it seems to come from.

    Where the mask has holes, all tokens' vectors are compared. The last token's are not: many count the tokens to find
    it, which is right for every mask that training makes.
    """
    with recorded(gpt) as calls:
        want = gpt(ids, mask)
    run = fast.all_tokens if holes else fast.last_token
    got = run(ids, mask)
    with torch.no_grad():  # as in evaluation, where the engine has ways of its own
        evaluated = got if gpt.training else run(ids, mask)
    if holes:  # what stands at the place of padding is nobody's business
        want, got, evaluated = (result["last_hidden_state"][mask.bool()] for result in (want, got, evaluated))
    else:
        want, got, evaluated = (result["last_token"] for result in (want, got, evaluated))
    difference = distance(evaluated, want)
    if logits:
        want = torch.cat([want, gpt.hidden_state_to_token(want)], dim=-1)
        got = torch.cat([got, got @ gpt.word_embedding.weight.T], dim=-1)
    difference = max(difference, distance(got, want))
    if not difference <= TOLERANCE:
        return difference, blame(fast, calls, mask.bool())

    # From the output down: the first parameter whose gradient differs tells where.
    parameters = dict(gpt.named_parameters())
    gradients = [torch.autograd.grad(result.sin().sum(), list(parameters.values()), materialize_grads=True)
                 if result.requires_grad else map(torch.zeros_like, parameters.values()) for result in (got, want)]
    for name, ours, theirs in sorted(zip(parameters, *gradients, strict=True), key=lambda item: depth(item[0])):
        apart = distance(ours, theirs)
        if not apart <= 10 * TOLERANCE:
            return apart, f"{file_of(name)}: the gradient of {name}"
    return difference, ""


def blame(fast: FastGPT2, calls: list[tuple[str, nn.Module, Tensor, Tensor]], visible: Tensor) -> str:
    """The file of the first part whose result for its own input is not what the engine makes of that input."""
    mask = (~visible[:, None, None]).to(calls[0][2].dtype) * -1e4  # as the course's models hand it to their blocks
    for file, module, x, result in calls:
        want = (fast.attend if file == "modules/attention.py" else fast.block)(module, x, visible)[visible]
        if not distance(want, result[visible]) <= TOLERANCE:
            # With a right mask it may be right: then the model hands it a wrong one.
            return file if not distance(want, module(x, mask)[visible]) <= TOLERANCE else "models/gpt2.py"
    return "models/gpt2.py"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While inside: no threads, which on so little work would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def recorded(gpt: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor, Tensor]]]:
    """While inside: (file, module, input, result) of each attention and each layer, in the order in which they end."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def note(file: str, module: nn.Module, inputs: tuple, keywords: dict, result: Tensor) -> None:
        x = inputs[0] if inputs else keywords["hidden_states"]
        calls.append((file, module, x.detach().clone(), result.detach().clone()))

    with contextlib.ExitStack() as hooks:
        for layer in gpt.gpt_layers:
            for file, module in (("modules/attention.py", layer.self_attention), ("modules/gpt2_layer.py", layer)):
                hooks.enter_context(module.register_forward_hook(partial(note, file), with_kwargs=True))
        yield calls


def conditions(gpt: nn.Module) -> Iterator[tuple[str, dict[nn.Module, float]]]:
    """Name and probabilities of what is compared; a dropout that is not named has probability 0."""
    yield EVAL, {gpt.embed_dropout: 0.5}
    yield "in training, with every dropout at 0", {}
    yield "with embed_dropout at 1", {gpt.embed_dropout: 1.0}
    for layer in (gpt.gpt_layers[0], gpt.gpt_layers[-1]):  # the engine has a way of its own for the last one
        yield "with the attention's dropout at 1", {layer.self_attention.dropout: 1.0}
        yield "with attention_dropout at 1", {layer.attention_dropout: 1.0}
        yield "with out_dropout at 1", {layer.out_dropout: 1.0}


def texts(vocab_size: int, T: int = 9, holes: bool = False) -> tuple[Tensor, Tensor]:
    """Random ids and masks [B, T]: a full row, padding on the right, a single token; with or without holes."""
    ids = torch.randint(vocab_size, (4, T), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, T // 2:] = 0
    mask[2, -1:] = 0
    mask[3, 1:] = 0
    mask[:, 0] = 1
    if holes:
        mask[0, 2:-2:3] = 0
        mask[2, 1::2] = 0
    return ids, mask


def randomise(module: nn.Module) -> None:
    """Give every parameter random values, LayerNorm's gains and all biases too: gains of 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def distance(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest of `want` where that is above 1; infinite for NaN or a shape."""
    if got.shape != want.shape:
        return math.inf
    if not want.numel():
        return 0.0
    apart = ((got - want).abs().max() / want.abs().max().clamp_min(1.0)).item()
    return math.inf if math.isnan(apart) else apart


def file_in(error: Exception) -> str:
    """The student's file that an error comes from."""
    files = ("modules/attention.py", "modules/gpt2_layer.py", "models/gpt2.py")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for file in files:
            if frame.filename.replace("\\", "/").endswith(file):
                return file
    return "models/gpt2.py"


def in_one_line(error: Exception) -> str:
    """Type and message of an error, short enough for a line of a run's output."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:120]


def depth(name: str) -> tuple[int, int]:
    """Sorts parameters from the output of a GPT-2 to its input."""
    parts = ("attention_layer_norm", "self_attention", "attention_dense", "out_layer_norm", "interm_dense", "out_dense")
    if name.startswith("gpt_layers."):
        _, number, part, *_ = name.split(".")
        return -int(number), -parts.index(part) if part in parts else 0
    return (-10**9, 0) if name.startswith("final_layer_norm") else (10**9, 0)


def file_of(name: str) -> str:
    """Where a parameter is used."""
    if not name.startswith("gpt_layers."):
        return "models/gpt2.py"
    return "modules/attention.py" if ".self_attention." in name else "modules/gpt2_layer.py"


def check_adamw(definition: type[torch.optim.Optimizer], device: torch.device | str = "cpu") -> Agreement:
    """Compare FastAdamW with another AdamW: six steps of two groups, with gradients of many sizes, zero and None.

    One gradient has a few rows alone, as an embedding's has: FastAdamW gets it sparse. The difference is relative to
    the learning rate, the size of a step.
    """
    worst = 0.0
    for correct_bias in (True, False):
        try:
            with one_thread():
                ours, theirs = (adamw_steps(kind, correct_bias, device) for kind in (FastAdamW, definition))
        except NotImplementedError:
            raise
        except Exception as error:  # code that somebody else wrote may raise anything
            return Agreement(math.inf, "optimizer.py", f"with correct_bias={correct_bias}, {in_one_line(error)}")
        difference = distance(ours, theirs)
        if not difference <= TOLERANCE:
            return Agreement(difference, "optimizer.py", f"with correct_bias={correct_bias}")
        worst = max(worst, difference)
    return Agreement(worst)


def adamw_steps(kind: type[torch.optim.Optimizer], correct_bias: bool, device: torch.device | str) -> Tensor:
    """All parameters after each of six steps, end to end, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (4,), (), (2, 3, 2), (6,), (8, 3)]
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in shapes]
    groups: list[dict[str, Any]] = [{"params": params[:3]},
                                    {"params": params[3:], "lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.1, eps=1e-2, weight_decay=0.3, correct_bias=correct_bias)
    seen = []
    for step in range(6):
        for number, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator) * 10.0 ** (number - 2)
            if number == 5:
                grad[[row for row in range(8) if row not in (3, step % 2)]] = 0
            param.grad = None if (step + number) % 4 == 0 else (grad * (step != 3)).to(device)
            if number == 5 and kind is FastAdamW and param.grad is not None:
                param.grad = param.grad.to_sparse(1)
        optimizer.step()
        seen += [param.detach().flatten().to("cpu", copy=True) for param in params]
    return torch.cat(seen)
