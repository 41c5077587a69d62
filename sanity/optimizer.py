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


RIGHT: dict[str, Any] = {
    "form": "efficient",  # adds eps to sqrt(v); "hat": to the root of the corrected v
    "decay": "after",  # the gradient step; "before" it; "gradient": added to the gradient
    "amount": "lr",  # what weight_decay * p is multiplied by
    "bias": "both",  # which means are corrected; "inverted": both, the wrong way round
    "correct_bias": None, "eps_value": None, "betas": None, "rates": None,  # None: from the group
    "eps": "outside", "root": True,  # of the denominator
    "first": 1,  # t at the first step
    "shared_count": False, "first_group_only": False, "decay_none": False,
    "reset": "",  # what is lost after every step: "m", "v", "mv", or with the step count "mvt"
    "stored": "means",  # "hat": the corrected means are kept; "root": the denominator is kept as v
    "numerator": "m", "mean_of": "1 - beta", "square": True, "sign": 1.0,
}
"""The options of `formulas`, as a right AdamW has them."""


def formulas(work: Job, **changed: Any) -> Tensor:
    """What `run` gives for a right AdamW, or with some of the options in RIGHT changed."""
    how = {**RIGHT, **changed}
    params = [start.clone() for start in work.start]
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    counts, total, seen = [how["first"] - 1] * len(params), how["first"] - 1, []
    for number, grads in enumerate(work.grads):
        for i, g in enumerate(grads):
            options = dict(work.options[0 if how["first_group_only"] else i])
            options["lr"] = how["rates"][number] if how["rates"] else options["lr"]
            if g is None:
                if how["decay_none"]:
                    params[i] = params[i] * (1 - options["lr"] * options["weight_decay"])
                continue
            counts[i] += 1
            total += 1
            t = total if how["shared_count"] else 1 if "t" in how["reset"] else counts[i]
            m, v = means[i] * ("m" not in how["reset"]), squares[i] * ("v" not in how["reset"])
            params[i], means[i], squares[i] = _update(params[i], g, m, v, t, options, how)
        seen.append(torch.stack(params))
    return torch.stack(seen)


def _update(p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, options: dict[str, Any], how: dict[str, Any],
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, m and v after one step of one parameter."""
    lr, wd = options["lr"], options["weight_decay"]
    beta1, beta2 = how["betas"] or options["betas"]
    small = options["eps"] if how["eps_value"] is None else how["eps_value"]

    # The corrections, and the two sizes that are multiplied by a tensor: the step's and the decay's.
    correct = options["correct_bias"] if how["correct_bias"] is None else how["correct_bias"]
    c1 = (1 - beta1**t or 1e-30) if correct and how["bias"] != "second" and how["bias"] != "none" else 1.0
    c2 = (1 - beta2**t or 1e-30) if correct and how["bias"] != "first" and how["bias"] != "none" else 1.0
    if how["bias"] == "inverted":
        c1, c2 = 1 / c1, 1 / c2
    root_c2 = c2 if how["bias"] == "no root" else math.sqrt(c2)
    size = lr if how["form"] == "hat" else lr * root_c2 / c1
    decay = wd * {"lr": lr, "nothing": 0.0, "one": 1.0, "step size": size, "plus": -lr, "twice": 2 * lr,
                  "lr squared": lr * lr}[how["amount"]]

    # Decay in one of three places, the two means, and the step.
    if how["decay"] == "gradient":
        g = g + decay * p
    if how["decay"] == "before":
        p = p - decay * p
    m = beta1 * m + (1 if how["mean_of"] == "g" else 1 - beta1) * g
    v = beta2 * v + (1 if how["mean_of"] == "g^2" else 1 - beta2) * (g * g if how["square"] else g)
    top, square = (m / c1, v / c2) if how["form"] == "hat" else (m, v)
    if how["numerator"] == "g":
        top = g
    if how["eps"] == "inside":
        bottom = (square + small).sqrt()
    else:
        bottom = (square.sqrt() if how["root"] else square) + small
    p = p - how["sign"] * size * top / bottom
    if how["decay"] == "after":
        p = p - decay * p
    return p, m / c1 if how["stored"] == "hat" else m, (
        v / c2 if how["stored"] == "hat" else bottom if how["stored"] == "root" else v)


SHARED = {"all parameters share one step count: each counts its own steps, in self.state[p]": {"shared_count": True}}
MISTAKES: dict[str, dict[str, Any]] = {
    "weight decay is missing": {"amount": "nothing"},
    "weight decay is not multiplied by lr": {"amount": "one"},
    "weight decay is multiplied by the bias-corrected step size; it takes lr": {"amount": "step size"},
    "weight decay has the wrong sign": {"amount": "plus"},
    "weight decay is applied twice": {"amount": "twice"},
    "weight decay is multiplied by lr twice": {"amount": "lr squared"},
    "weight decay is added to the gradient (L2), which is Adam, not AdamW: subtract lr * weight_decay * p from p":
        {"decay": "gradient", "amount": "one"},
    "lr * weight_decay * p is added to the gradient: subtract it from p": {"decay": "gradient"},
    "the bias correction is missing": {"bias": "none"},
    "only the first moment is corrected for its start at zero": {"bias": "first"},
    "only the second moment is corrected for its start at zero": {"bias": "second"},
    "the bias correction is upside down: it makes the step larger at first": {"bias": "inverted"},
    "the correction of v lacks its square root: it is sqrt(1 - beta2^t)": {"bias": "no root"},
    "the corrected means are kept in the state: correct only what goes into the step": {"form": "hat", "stored": "hat"},
    "eps is inside the square root: it is added to sqrt(v)": {"eps": "inside"},
    "eps is ignored, or fixed at a small number: take group['eps']": {"eps_value": 1e-8},
    "betas are fixed at (0.9, 0.999); they come from the group": {"betas": (0.9, 0.999)},
    "beta1 and beta2 are swapped": {"betas": OPTIONS["betas"][::-1]},
    "the step count starts one too low: at the first step t is 1": {"first": 0},
    "the step count starts one too high: at the first step t is 1": {"first": 2},
    "the moments start from zero at every step: keep them in self.state[p]": {"reset": "mv"},
    "m starts from zero at every step: keep it in self.state[p]": {"reset": "m"},
    "v starts from zero at every step: keep it in self.state[p]": {"reset": "v"},
    "the state is made anew at every step: make it only if self.state[p] is empty": {"reset": "mvt"},
    "sqrt_ and add_ overwrite v: take v.sqrt(), which makes a new tensor": {"stored": "root"},
    "the step goes along the gradient; it must go along its mean m": {"numerator": "g"},
    "the gradient is added to m without the factor 1 - beta1": {"mean_of": "g"},
    "the square is added to v without the factor 1 - beta2": {"mean_of": "g^2"},
    "v is the mean of the gradient; it must be that of its square": {"square": False},
    "the step has the wrong sign: p must move against the gradient": {"sign": -1.0},
    "the square root of the second moment is missing": {"root": False},
}


FORMS = [{"form": form, "decay": decay} for decay in ("after", "before") for form in ("efficient", "hat")]
"""What AdamW may look like and be right."""


@lru_cache
def style(kind: type[torch.optim.Optimizer]) -> dict[str, str]:
    """Which of the right forms an optimizer has: efficient or hat, decay after or before the gradient step.

    "unknown" if it has none of them.
    """
    work = job()
    got = run(kind, work)
    for form in FORMS:
        if difference(got, formulas(work, **form)) <= 1e-5:
            return form
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
    forms = [right] if right["form"] != "unknown" else FORMS
    wrong = ((name, formulas(work, **{**form, **changed})) for name, changed in {**mistakes, **MISTAKES}.items()
             for form in forms)
    return compare(got, formulas(work, **forms[0]), wrong)


@torch.no_grad()
def usual_steps(kind: type[torch.optim.Optimizer]) -> Result:
    """four steps with eps 1e-2 and weight decay 0.3 at lr 0.1"""
    result = hold(kind, job(), {})
    if not result.passed:
        return result
    notes = {"before": "Accepted here, but the grader has a point for the other order: weight decay comes before the "
                       "gradient step, and the handout asks for it after.",
             "hat": "Accepted: eps is added to the corrected root; the course's efficient form adds it to sqrt(v)."}
    return replace(result, note=" ".join(notes[word] for word in style(kind).values() if word in notes))


@torch.no_grad()
def without_bias_correction(kind: type[torch.optim.Optimizer]) -> Result:
    """correct_bias=False: the step size is lr"""
    return hold(kind, job(correct_bias=False), {
        "correct_bias is ignored: with False nothing is corrected": {"correct_bias": True}})


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
    """step(closure) calls it once, takes a step, returns its loss"""
    weight, calls = nn.Parameter(torch.ones(2)), []
    optimizer = kind([weight])

    def loss() -> Tensor:
        calls.append(torch.is_grad_enabled())
        value = (weight**2).sum()
        if value.requires_grad:
            value.backward()
        return value

    got = optimizer.step(loss)
    if calls != [True]:
        return Result(math.inf, mistake=f"the closure was called {len(calls)} times" if len(calls) != 1 else
                      "the closure runs without gradients: call it under torch.enable_grad()")
    if not isinstance(got, Tensor) or got.item() != 2.0:
        return Result(math.inf, mistake=f"step(closure) returned {got!r}, not the closure's loss")
    if not bool((weight < 1.0).all()):
        return Result(math.inf, mistake="step(closure) ignores the gradients that the closure computes: call it first")
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
