"""Checks of AdamW in float64, step by step, against the formulas; a failure names the likely mistake."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from sanity.checks import Result, compare, difference

OPTIONS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3, "correct_bias": True}
"""Large enough that every mistake makes a difference of 1e-3 and more; 1e-5 is allowed, for state in float32."""


@dataclass
class Job:
    """Some parameters, their options, and the gradients of some steps."""

    grads: list[list[Tensor | None]]
    "For each step, a gradient for each parameter, or None."
    options: list[dict[str, Any]]
    "For each parameter its options; those with the same options are in one group."
    start: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.start = [torch.randn(3, generator=random, dtype=torch.float64) for _ in self.options]


def job(steps: int = 4, parameters: int = 1, missing: tuple[tuple[int, int], ...] = (), zero: tuple[int, ...] = (),
        groups: list[dict[str, Any]] | None = None, **options: Any) -> Job:
    """A job with gradients of different sizes. missing: (step, parameter) without one; zero: steps with zeros."""
    random = torch.Generator().manual_seed(1)
    grads: list[list[Tensor | None]] = []
    for step in range(steps):
        row = [torch.randn(3, generator=random, dtype=torch.float64) * 10.0 ** (step % 2 - number)
               for number in range(parameters)]
        grads.append([None if (step, number) in missing else grad * (step not in zero)
                      for number, grad in enumerate(row)])
    return Job(grads, groups or [{**OPTIONS, **options}] * parameters)


def run(kind: type[torch.optim.Optimizer], work: Job, after_step: Callable[..., Any] = lambda *_: None) -> Tensor:
    """All parameters after each step of an optimizer, as one tensor [steps, parameters, 3].

    Parameters with the same options are in one group. after_step(optimizer, step) may return another optimizer.
    """
    params = [nn.Parameter(start.clone()) for start in work.start]
    groups: list[dict[str, Any]] = []
    for param, options in zip(params, work.options, strict=True):
        same = [group for group in groups if all(group[name] == value for name, value in options.items())]
        same[0]["params"].append(param) if same else groups.append({"params": [param], **options})
    if len(groups) == 1:  # as a course script makes it
        options = groups[0]
        optimizer = kind(options.pop("params"), **options)
    else:
        optimizer = kind(groups)
    seen = []
    for step, grads in enumerate(work.grads):
        for param, grad in zip(params, grads, strict=True):
            param.grad = None if grad is None else grad.clone()
        optimizer.step()
        seen.append(torch.stack([param.detach().clone() for param in params]))
        optimizer = after_step(optimizer, step) or optimizer
    return torch.stack(seen)


def formulas(work: Job, *, form: str = "efficient", decay: str = "after", bias: str = "both", eps: str = "outside",
             betas: tuple[float, float] | None = None, eps_value: float | None = None, first: int = 1,
             shared_count: bool = False, first_group_only: bool = False, reset: str = "nothing", sign: float = 1.0,
             root: bool = True, ignore_correct_bias: bool = False, decay_none: bool = False,
             rates: list[float] | None = None) -> Tensor:
    """What `run` gives for a right AdamW, or with one thing changed.

    form: "efficient" adds eps to sqrt(v), "hat" to the corrected root. decay: "after" the gradient step, "before" it,
    and others that are wrong. rates: a learning rate for each step.
    """
    params = [start.clone() for start in work.start]
    means = [torch.zeros_like(p) for p in params]
    squares = [torch.zeros_like(p) for p in params]
    counts, total, seen = [first - 1] * len(params), first - 1, []
    for number, grads in enumerate(work.grads):
        for i, g in enumerate(grads):
            options = work.options[0 if first_group_only else i]
            lr, wd = rates[number] if rates else options["lr"], options["weight_decay"]
            if g is None:
                if decay_none:
                    params[i] = params[i] * (1 - lr * wd)
                continue
            beta1, beta2 = betas or options["betas"]
            small = options["eps"] if eps_value is None else eps_value
            counts[i] += 1
            total += 1
            t = total if shared_count else 1 if reset == "all" else counts[i]
            p = params[i]
            if decay == "coupled":
                g = g + wd * p
            if reset != "nothing":
                means[i], squares[i] = torch.zeros_like(p), torch.zeros_like(p)
            means[i] = beta1 * means[i] + (1 - beta1) * g
            squares[i] = beta2 * squares[i] + (1 - beta2) * g * g
            c1, c2 = 1 - beta1**t, 1 - beta2**t
            if not (options["correct_bias"] or ignore_correct_bias):
                c1 = c2 = 1.0
            c1 = c1 if bias in ("both", "first", "inverted") else 1.0
            c2 = c2 if bias in ("both", "second", "inverted") else 1.0
            c1, c2 = c1 or 1e-30, c2 or 1e-30
            if bias == "inverted":
                c1, c2 = 1 / c1, 1 / c2
            v = squares[i]
            if decay == "before":
                p = p - lr * wd * p
            if form == "hat":
                step = lr / c1 * means[i] / ((v / c2).sqrt() + small)
                size = lr
            else:
                size = lr * math.sqrt(c2) / c1
                bottom = (v + small).sqrt() if eps == "inside" else v.sqrt() + small if root else v + small
                step = size * means[i] / bottom
            p = p - sign * step
            p = p - {"after": lr * wd * p, "without lr": wd * p, "step size": size * wd * p, "plus": -lr * wd * p,
                     "twice": 2 * lr * wd * p, "lr squared": lr * lr * wd * p}.get(decay, 0.0)
            params[i] = p
        seen.append(torch.stack(params))
    return torch.stack(seen)


SHARED = {"all parameters share one step count: each counts its own steps, in self.state[p]": {"shared_count": True}}
MISTAKES: dict[str, dict[str, Any]] = {
    "weight decay is missing": {"decay": "none"},
    "weight decay is not multiplied by lr": {"decay": "without lr"},
    "weight decay is multiplied by the bias-corrected step size; it takes lr": {"decay": "step size"},
    "weight decay has the wrong sign": {"decay": "plus"},
    "weight decay is applied twice": {"decay": "twice"},
    "weight decay is multiplied by lr twice": {"decay": "lr squared"},
    "weight decay is added to the gradient (L2): that is Adam, not AdamW": {"decay": "coupled"},
    "the bias correction is missing": {"bias": "none"},
    "only the first moment is corrected for its start at zero": {"bias": "first"},
    "only the second moment is corrected for its start at zero": {"bias": "second"},
    "the bias correction is upside down: it makes the step larger at first": {"bias": "inverted"},
    "eps is inside the square root": {"eps": "inside"},
    "eps is ignored, or fixed at 1e-8; it comes from the group": {"eps_value": 1e-8},
    "eps is fixed at 1e-6; it comes from the group": {"eps_value": 1e-6},
    "betas are fixed at (0.9, 0.999); they come from the group": {"betas": (0.9, 0.999)},
    "beta1 and beta2 are swapped": {"betas": OPTIONS["betas"][::-1]},
    "the step count starts one too low: at the first step t is 1": {"first": 0},
    "the step count starts one too high: at the first step t is 1": {"first": 2},
    "the moments start from zero at every step: keep them in self.state[p]": {"reset": "moments"},
    "the state is made anew at every step: make it only if self.state[p] is empty": {"reset": "all"},
    "the sign is wrong: this climbs": {"sign": -1.0},
    "the square root of the second moment is missing": {"root": False},
}


@lru_cache
def style(kind: type[torch.optim.Optimizer]) -> dict[str, str]:
    """Which of the right forms an optimizer has: efficient or hat, decay after or before the gradient step.

    "unknown" if it has none of them.
    """
    work = job()
    got = run(kind, work)
    for form in ("efficient", "hat"):
        for decay in ("after", "before"):
            if difference(got, formulas(work, form=form, decay=decay)) <= 1e-5:
                return {"form": form, "decay": decay}
    return {"form": "unknown"}


def hold(kind: type[torch.optim.Optimizer], work: Job, mistakes: dict[str, dict[str, Any]],
         after_step: Callable[..., Any] = lambda *_: None) -> Result:
    """Compare an optimizer's steps with the formulas in its own style, and with those of known mistakes."""
    try:
        right, got = style(kind), run(kind, work, after_step)
    except ZeroDivisionError:
        return Result(math.inf, mistake="division by zero: the step count must be 1 at the first step, not 0")
    if difference(got, torch.stack([torch.stack(work.start)] * len(got))) == 0.0:
        return Result(math.inf, mistake="the parameter does not change: `p = p - ...` only gives the name p to another "
                                        "tensor; change it in place (p.sub_(...), or p.data = ...)")
    forms = [right] if right["form"] != "unknown" else [{"form": "efficient"}, {"form": "hat"}]
    wrong = [(name, formulas(work, **{**form, **changed})) for name, changed in {**mistakes, **MISTAKES}.items()
             for form in forms]
    return compare(got, formulas(work, **forms[0]), wrong)


@torch.no_grad()
def usual_steps(kind: type[torch.optim.Optimizer]) -> Result:
    """four steps with eps 1e-2 and weight decay 0.3 at lr 0.1"""
    result = hold(kind, job(), {})
    if not result.passed:
        return result
    notes = {"before": "Accepted: weight decay comes before the gradient step; the course asks for it after.",
             "hat": "Accepted: eps is added to the corrected root; the course's efficient form adds it to sqrt(v)."}
    return replace(result, note=" ".join(notes[word] for word in style(kind).values() if word in notes))


@torch.no_grad()
def without_bias_correction(kind: type[torch.optim.Optimizer]) -> Result:
    """correct_bias=False: the step size is lr"""
    return hold(kind, job(correct_bias=False), {
        "correct_bias is ignored: with False nothing is corrected": {"ignore_correct_bias": True}})


@torch.no_grad()
def without_decay(kind: type[torch.optim.Optimizer]) -> Result:
    """weight_decay=0 and the default eps: plain Adam"""
    return hold(kind, job(weight_decay=0.0, eps=1e-6), {})


@torch.no_grad()
def two_parameters(kind: type[torch.optim.Optimizer]) -> Result:
    """two parameters, one of them without a gradient at two steps"""
    return hold(kind, job(steps=5, parameters=2, missing=((0, 1), (2, 1))), {
        **SHARED,
        "a parameter without a gradient is decayed: leave it alone": {"decay_none": True}})


@torch.no_grad()
def two_groups(kind: type[torch.optim.Optimizer]) -> Result:
    """two parameter groups with options of their own"""
    other = {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.0, "correct_bias": True}
    return hold(kind, job(parameters=2, groups=[OPTIONS, other]), {
        "the options of the first group are used for all: read them from the group": {"first_group_only": True},
        "lr is read from self.defaults; it comes from the group": {"rates": [1e-3] * 4},
        **SHARED})


@torch.no_grad()
def zero_gradients(kind: type[torch.optim.Optimizer]) -> Result:
    """a gradient of zero still decays the parameter and the moments"""
    return hold(kind, job(steps=5, zero=(2, 3)), {})


@torch.no_grad()
def changed_rate(kind: type[torch.optim.Optimizer]) -> Result:
    """a scheduler that changes group["lr"] is obeyed"""
    work, rates = job(), [0.1, 0.05, 0.2, 0.01]

    def change(optimizer: torch.optim.Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rates[(step + 1) % 4]

    right = {**style(kind)} if style(kind)["form"] != "unknown" else {}
    return compare(run(kind, work, change), formulas(work, rates=rates, **right), {
        "a change of group['lr'] is ignored: read it from the group at every step": formulas(work, **right)})


@torch.no_grad()
def saved_state(kind: type[torch.optim.Optimizer]) -> Result:
    """state_dict: a new optimizer continues as the old one would"""
    work = job(steps=6)

    def restart(optimizer: torch.optim.Optimizer, step: int) -> torch.optim.Optimizer | None:
        if step != 2:
            return None
        fresh = kind([param for group in optimizer.param_groups for param in group["params"]])
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return fresh

    result = hold(kind, work, {}, restart)
    if result.passed or not hold(kind, work, {}).passed:
        return result
    return Result(result.difference, result.tolerance, "the moments or the step count are lost: keep them in "
                                                       "self.state[p], which state_dict saves")


def closure(kind: type[torch.optim.Optimizer]) -> Result:
    """step(closure) calls it once and returns its loss"""
    weight, calls = nn.Parameter(torch.ones(2)), []
    optimizer = kind([weight])

    def loss() -> Tensor:
        calls.append(torch.is_grad_enabled())
        return (weight**2).sum()

    got = optimizer.step(loss)
    if calls != [True]:
        return Result(math.inf, mistake=f"the closure was called {len(calls)} times" if len(calls) != 1 else
                      "the closure runs without gradients: call it under torch.enable_grad()")
    if not isinstance(got, Tensor) or got.item() != 2.0:
        return Result(math.inf, mistake=f"step(closure) returned {got!r}, not the closure's loss")
    return Result(0.0)


def other_objects(kind: type[torch.optim.Optimizer]) -> Result:
    """gradients stay as they are; a sparse one is refused"""
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([1.0, -2.0, 0.5])
    optimizer = kind([weight], weight_decay=0.1)
    for _ in range(2):
        optimizer.step()
    if not torch.equal(weight.grad, torch.tensor([1.0, -2.0, 0.5])):
        return Result(math.inf, mistake="step() changes p.grad: work on a copy")
    if optimizer.param_groups[0]["params"][0] is not weight or not weight.requires_grad:
        return Result(math.inf, mistake="step() puts another tensor in the place of the parameter: change p in place")
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    try:
        kind(embedding.parameters()).step()
    except RuntimeError:
        return Result(0.0)
    return Result(math.inf, mistake="a sparse gradient must raise RuntimeError")


CHECKS = [usual_steps, without_bias_correction, without_decay, two_parameters, two_groups, zero_gradients, changed_rate,
          saved_state, closure, other_objects]
