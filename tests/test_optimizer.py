"""AdamW against independent float64 oracles, and a table of wrong AdamWs that proves the checks bite.

Each `check_*` takes an AdamW class and raises if it is wrong. The right class must pass them all; each mutant, the
source of optimizer.py with one piece replaced, must fail the check named beside it.
"""

import copy
import io
import math
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import AdamW
from optimizer_test import test_optimizer
from sanity import optimizer as sanity
from tests.mutants import caught_by
from tests.oracles import FIRST_WEIGHT, ROOT, adamw, reference

# Large enough that every detail shows within a few steps.
HARSH = {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-2, "betas": (0.8, 0.95)}
SCALES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # of the gradients, step by step


def draw(shape: tuple[int, ...], steps: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter and `steps` gradients of very different sizes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), [rng.normal(size=shape) * SCALES[i % 5] for i in range(steps)]


def parameter(value: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(value, dtype=dtype))


def set_grad(param: torch.Tensor, grad: np.ndarray | None) -> None:
    param.grad = None if grad is None else torch.tensor(grad, dtype=param.dtype)


def assert_near(param: torch.Tensor, wanted: np.ndarray, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(param.detach().double().numpy(), wanted, rtol=tolerance, atol=tolerance)


def follow(optimizer_class: type, options: dict, steps: int = 6, shape: tuple[int, ...] = (3, 5)) -> None:
    """Hold `steps` float64 steps on one parameter to the oracle."""
    value, grads = draw(shape, steps)
    param = parameter(value)
    optimizer = optimizer_class([param], **options)
    for grad in grads:
        set_grad(param, grad)
        optimizer.step()
    assert_near(param, adamw(value, grads, steps, **options))


def check_first_step(cls):
    """The bias correction, both halves, the direction, eps: before moments could hide it."""
    follow(cls, HARSH, steps=1)
    follow(cls, {}, steps=1)


def check_many_steps(cls):
    """Running means, decay and step count over 2, 6 and 50 steps."""
    for steps in (2, 6, 50):
        follow(cls, HARSH, steps)


def check_no_bias_correction(cls):
    """correct_bias=False is honoured, for both moments."""
    for steps in (1, 6):
        follow(cls, {**HARSH, "correct_bias": False}, steps)


def check_no_decay(cls):
    """The defaults but for a large rate: no decay unless asked for."""
    follow(cls, {"lr": 0.1})


def check_decay_only(cls):
    """A zero gradient: the parameter shrinks by lr x weight_decay a step, exactly, and nothing else moves."""
    value, _ = draw((4,), 0)
    param = parameter(value)
    optimizer = cls([param], **HARSH)
    for _ in range(3):
        set_grad(param, np.zeros(4))
        optimizer.step()
    assert_near(param, value * (1 - 0.1 * 0.3) ** 3)


def check_missing_gradients(cls):
    """Two parameters of one shape, one without a gradient at some steps: own moments, own count, no decay then."""
    (value, grads), (value2, grads2) = draw((3,), 6), draw((3,), 6, seed=1)
    grads2[0] = grads2[3] = None
    one, two = parameter(value), parameter(value2)
    optimizer = cls([one, two], **HARSH)
    for grad, grad2 in zip(grads, grads2, strict=True):
        set_grad(one, grad)
        set_grad(two, grad2)
        before = two.detach().clone()
        optimizer.step()
        assert grad2 is not None or torch.equal(two, before)
        assert (two.grad is None) == (grad2 is None)
    assert_near(one, adamw(value, grads, 6, **HARSH))
    assert_near(two, adamw(value2, grads2, 6, **HARSH))


def check_groups(cls):
    """Each group's own options, for those it names; a group added later counts from its own start."""
    own = {"lr": 0.03, "weight_decay": 0.5, "eps": 0.1, "betas": (0.5, 0.7), "correct_bias": False}
    (value, grads), (value2, grads2), (value3, grads3) = (draw((3,), 6, seed) for seed in range(3))
    one, two, three = parameter(value), parameter(value2), parameter(value3)
    optimizer = cls([{"params": [one]}, {"params": [two], **own}], **HARSH)
    for i in range(6):
        if i == 2:
            optimizer.add_param_group({"params": [three], "lr": 0.2})
        for param, grad in ((one, grads[i]), (two, grads2[i]), (three, grads3[i])):
            set_grad(param, grad)
        optimizer.step()
    assert_near(one, adamw(value, grads, 6, **HARSH))
    assert_near(two, adamw(value2, grads2, 6, **own))
    assert_near(three, adamw(value3, grads3[2:], 4, **{**HARSH, "lr": 0.2}))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.03, 0.2]


def check_shapes_and_dtypes(cls):
    """0-d, empty, 3-d and non-contiguous parameters, strided gradients, float32 and float64."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for shape in ((), (0,), (1,), (2, 3, 4), (5, 4)):
            value, grads = draw(shape, 6)
            param = parameter(value, dtype)
            if shape == (5, 4):
                param = torch.nn.Parameter(torch.tensor(value, dtype=dtype).t().contiguous().t())
                assert not param.is_contiguous()
            optimizer = cls([param], **HARSH)
            for grad in grads:
                param.grad = torch.tensor(grad, dtype=dtype)
                if shape == (2, 3, 4):
                    param.grad = param.grad.transpose(0, 2).contiguous().transpose(0, 2)
                optimizer.step()
            assert param.dtype == dtype and param.shape == shape
            assert_near(param, adamw(value, grads, 6, **HARSH), tolerance)


def check_only_parameters_change(cls):
    """Gradients keep value and identity, parameters identity and requires_grad; no graph; options as they were."""
    value, grads = draw((3, 2), 4)
    param = parameter(value)
    optimizer = cls([param], **HARSH)
    options = copy.deepcopy({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
    for grad in grads:
        set_grad(param, grad)
        given = param.grad
        optimizer.step()
        assert param.grad is given and np.array_equal(given.numpy(), grad)
    assert optimizer.param_groups[0]["params"][0] is param and param.requires_grad and param.is_leaf
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == options
    state = optimizer.state[param]
    assert not any(t.requires_grad for t in state.values() if isinstance(t, torch.Tensor))
    assert not np.array_equal(param.detach().numpy(), value)


def check_optimizers_are_apart(cls):
    """Two optimizers over equal parameters share nothing."""
    value, grads = draw((3,), 4)
    pair = [parameter(value), parameter(value)]
    optimizers = [cls([param], **HARSH) for param in pair]
    for grad in grads:
        set_grad(pair[0], grad)
        optimizers[0].step()
    for grad in grads:
        set_grad(pair[1], -grad)
        optimizers[1].step()
    assert_near(pair[0], adamw(value, grads, 4, **HARSH))
    assert_near(pair[1], adamw(value, [-g for g in grads], 4, **HARSH))


def check_state_dict(cls):
    """Through torch.save and torch.load(weights_only=True) into a new optimizer, the next steps are the same to
    the bit; what is loaded are copies."""
    for dtype in (torch.float64, torch.float32):
        value, grads = draw((3, 4), 6)
        one = parameter(value, dtype)
        first = cls([one], **HARSH)
        for grad in grads[:3]:
            set_grad(one, grad)
            first.step()
        two = torch.nn.Parameter(one.detach().clone())
        second = cls([two])
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        for grad in grads[3:]:
            for param, optimizer in ((one, first), (two, second)):
                set_grad(param, grad)
                optimizer.step()
        assert torch.equal(one, two)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(first.state[one][name], second.state[two][name])


def check_schedule(cls):
    """A rate changed between steps by a torch scheduler is the rate of the next step."""
    value, grads = draw((3,), 4)
    param = parameter(value)
    optimizer = cls([param], **HARSH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1.0, 0.5, 0.25, 0.0)[min(step, 3)])
    wanted = []
    for grad in grads:
        set_grad(param, grad)
        before = param.detach().clone()
        optimizer.step()
        schedule.step()
        wanted.append((param.detach() - before).abs().max().item())
    assert wanted[3] == 0 < wanted[2]  # at rate zero nothing moves, decay included
    rates = iter([0.1, 0.05, 0.025, 0.0])
    m, v, p = np.zeros(3), np.zeros(3), value
    for t, (grad, lr) in enumerate(zip(grads, rates, strict=True), 1):
        m, v = 0.8 * m + 0.2 * grad, 0.95 * v + 0.05 * grad**2
        p = p - lr * math.sqrt(1 - 0.95**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 1e-2)
        p = p - lr * 0.3 * p
    assert_near(param, p)


def check_closure(cls):
    """Called once, with gradients enabled although step() has none, before the update; its loss is returned."""
    value, _ = draw((3,), 0)
    param = parameter(value)
    optimizer = cls([param], **HARSH)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert len(calls) == 1 and loss.item() == pytest.approx((value**2).sum())
    assert_near(param, adamw(value, [2 * value], 1, **HARSH))
    assert optimizer.step() is None


def check_sparse_gradients(cls):
    """A sparse gradient is a RuntimeError, and its parameter stays as it is."""
    value, grads = draw((3, 2), 1)
    param = parameter(value)
    optimizer = cls([param], **HARSH)
    param.grad = torch.tensor(grads[0]).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert_near(param, value)
    assert not optimizer.state


BAD_OPTIONS = [
    *[{name: bad} for name in ("lr", "eps", "weight_decay") for bad in (-1e-9, math.nan, math.inf)],
    *[{"betas": bad} for bad in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan))],
]


def check_validation(cls):
    """Every option out of range is a ValueError that names it: as a default, in a group, in a group added later."""
    for bad in BAD_OPTIONS:
        (name,) = bad
        optimizer = cls([parameter(np.zeros(2))])
        for refused in (
            lambda bad=bad: cls([parameter(np.zeros(2))], **bad),
            lambda bad=bad: cls([{"params": [parameter(np.zeros(2))], **bad}]),
            lambda bad=bad, to=optimizer: to.add_param_group({"params": [parameter(np.zeros(2))], **bad}),
        ):
            with pytest.raises(ValueError, match=name):
                refused()
    cls([parameter(np.zeros(2))], lr=0, eps=0.0, betas=(0, 0.0), weight_decay=np.float64(0))  # the edges are allowed


CHECKS: dict[str, Callable[[type], None]] = {
    name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")
}


@pytest.mark.parametrize("name", CHECKS)
def test_adamw(name):
    """Catches: what the check's own docstring says; that each of them can fail is shown by the mutants below."""
    CHECKS[name](AdamW)


MEAN = "m.mul_(beta1).add_(p.grad, alpha=1 - beta1)"
SQUARE = "v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)"
EPS = 'group["eps"]'
ROOT_PLUS_EPS = f"v.sqrt().add_({EPS})"
MOVE = f"p.addcdiv_(m, {ROOT_PLUS_EPS}, value=-step_size)"
DECAY = 'p.add_(p, alpha=-lr * group["weight_decay"])'
SIZE = "step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)"
RATE = '-lr * group["weight_decay"]'
ZERO_MEAN = 'state["exp_avg"] = torch.zeros_like(p)'
ZERO_SQUARE = 'state["exp_avg_sq"] = torch.zeros_like(p)'
OPTIONS = 'lr, (beta1, beta2) = group["lr"], group["betas"]'
MISSING = "                if p.grad is None:\n                    continue"
COUNT = 't, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]'

# Name (the M of the table it is from), the check that must notice, and the replacements in optimizer.py.
MUTANTS: list[tuple[str, str, dict[str, str]]] = [
    ("M1 no bias correction", "first_step", {SIZE: "pass"}),
    ("M2 only the first moment corrected", "first_step", {SIZE: "step_size = lr / (1 - beta1**t)"}),
    ("M2 only the second moment corrected", "first_step", {SIZE: "step_size = lr * math.sqrt(1 - beta2**t)"}),
    ("M3 no square root in the correction", "first_step", {"math.sqrt(1 - beta2**t)": "(1 - beta2**t)"}),
    ("M3 correction inverted", "first_step",
     {SIZE: "step_size = lr * (1 - beta1**t) / math.sqrt(1 - beta2**t)"}),
    ("M4 correct_bias ignored", "no_bias_correction", {'if group["correct_bias"]:': "if True:"}),
    ("M5 without correct_bias v still corrected", "no_bias_correction",
     {"step_size = lr\n": "step_size = lr * math.sqrt(1 - beta2**t)\n"}),
    ("M6 without correct_bias a crash", "no_bias_correction", {"step_size = lr\n": "pass\n"}),
    ("M7 count starts at -1", "first_step", {'state["step"] = 0': 'state["step"] = -1'}),
    ("M7 counted twice", "first_step", {'state["step"] += 1': 'state["step"] += 2'}),
    ("M7 count constant", "many_steps", {'state["step"] += 1': 'state["step"] = 1'}),
    ("M8 one count for all parameters", "missing_gradients",
     {'state["step"] += 1': 'state["step"] = self.count = getattr(self, "count", 0) + 1'}),
    ("M9 moments shared between parameters", "missing_gradients",
     {ZERO_MEAN: 'state["exp_avg"] = self.__dict__.setdefault(tuple(p.shape), torch.zeros_like(p))'}),
    ("M9 moments shared between optimizers", "optimizers_are_apart",
     {ZERO_MEAN: 'state["exp_avg"] = globals().setdefault(tuple(p.shape), torch.zeros_like(p))'}),
    ("M10 m begins as the gradient", "first_step", {ZERO_MEAN: 'state["exp_avg"] = p.grad.clone()'}),
    ("M10 v begins as the square", "first_step", {ZERO_SQUARE: 'state["exp_avg_sq"] = p.grad**2'}),
    ("M10 state made anew each step", "many_steps", {"if not state:": "if True:"}),
    ("M11 coupled L2", "first_step",
     {COUNT: f'{COUNT}; p.grad = p.grad + group["weight_decay"] * p', DECAY: "pass"}),
    ("M12 decay without lr", "first_step", {RATE: '-group["weight_decay"]'}),
    ("M13 no decay", "first_step", {DECAY: "pass"}),
    ("M13 decay with a plus sign", "first_step", {DECAY: DECAY.replace("-lr", "lr")}),
    ("M13 decay by lr squared", "first_step", {RATE: RATE + " * lr"}),
    ("M13 decay twice", "first_step", {DECAY: f"{DECAY}; {DECAY}"}),
    ("M13 decay of the gradient", "first_step", {DECAY: DECAY.replace("p, alpha", "p.grad, alpha")}),
    ("M14 decay by the corrected step size", "first_step", {RATE: '-step_size * group["weight_decay"]'}),
    ("M15 decay before the update", "first_step",
     {MOVE: f"{DECAY}; {MOVE}", f"    {DECAY}\n": "    pass\n"}),
    ("M15 decay from the old parameter", "first_step",
     {MOVE: f"old = p.clone(); {MOVE}", DECAY: DECAY.replace("p, alpha", "old, alpha")}),
    ("M16 no decay where the gradient is zero", "decay_only",
     {'if group["weight_decay"]:': 'if group["weight_decay"] and p.grad.any():'}),
    ("M16 decay where the gradient is None", "missing_gradients",
     {MISSING: MISSING.replace("continue", f"{DECAY}; continue")}),
    ("M17 eps inside the root", "first_step", {ROOT_PLUS_EPS: f"(v + {EPS}).sqrt()"}),
    ("M18 eps ignored", "first_step", {ROOT_PLUS_EPS: "v.sqrt()"}),
    ("M18 eps fixed", "first_step", {ROOT_PLUS_EPS: "v.sqrt().add_(1e-8)"}),
    ("M18 eps added to the corrected root", "first_step",
     {ROOT_PLUS_EPS: f"v.sqrt().add_({EPS} * math.sqrt(1 - beta2**t))"}),
    ("M19 betas swapped", "first_step", {OPTIONS: OPTIONS.replace("beta1, beta2", "beta2, beta1")}),
    ("M19 betas fixed", "first_step", {OPTIONS: OPTIONS + "; beta1, beta2 = 0.9, 0.999"}),
    ("M20 v from |g|", "first_step", {SQUARE: "v.mul_(beta2).add_(p.grad.abs(), alpha=1 - beta2)"}),
    ("M20 v from m squared", "first_step",
     {SQUARE: "v.mul_(beta2).addcmul_(m, m, value=1 - beta2)"}),
    ("M20 no square root", "first_step", {ROOT_PLUS_EPS: f"v.add({EPS})"}),
    ("M21 the gradient overwritten", "only_parameters_change",
     {SQUARE: "v.mul_(beta2).add_(p.grad.mul_(p.grad), alpha=1 - beta2)"}),
    ("M22 m is the gradient", "many_steps", {ZERO_MEAN: 'state["exp_avg"] = p.grad'}),
    ("M23 lr from the defaults", "groups", {OPTIONS: OPTIONS.replace('group["lr"]', 'self.defaults["lr"]')}),
    ("M23 weight decay from the defaults", "groups", {RATE: RATE.replace("group", "self.defaults")}),
    ("M23 eps from the defaults", "groups", {EPS: 'self.defaults["eps"]'}),
    ("M23 betas from the defaults", "groups", {OPTIONS: OPTIONS.replace('group["betas"]', 'self.defaults["betas"]')}),
    ("M24 the group's rate overwritten", "many_steps", {SIZE: SIZE + '; group["lr"] = step_size'}),
    ("M25 ascent", "first_step", {MOVE: MOVE.replace("-step_size", "step_size")}),
    ("M26 a copy updated", "first_step", {COUNT: f"{COUNT}; grad, p = p.grad, p.clone(); p.grad = grad"}),
    ("decay on by default", "no_decay", {"weight_decay: float = 0.0": "weight_decay: float = 0.01"}),
    ("eps 1e-8 by default", "first_step", {"eps: float = 1e-6": "eps: float = 1e-8"}),
    ("closure without gradients", "closure", {"with torch.enable_grad():": "if True:"}),
    ("closure called twice", "closure", {"loss = closure()": "closure(); loss = closure()"}),
    ("loss not returned", "closure", {"return loss": "return None"}),
    ("step records a graph", "first_step", {"    @torch.no_grad()\n": ""}),
    ("sparse gradients let through", "sparse_gradients", {"if p.grad.is_sparse:": "if False:"}),
    ("sparse gradient noticed late", "sparse_gradients",
     {"                if p.grad.is_sparse:": "                p.add_(1)\n                if p.grad.is_sparse:"}),
    ("moments in half precision", "state_dict", {ZERO_SQUARE: f"{ZERO_SQUARE}.half()"}),
    ("moments not in the state", "state_dict",
     {ZERO_MEAN: "p.mean = torch.zeros_like(p)", 'state["exp_avg"], state': "p.mean, state"}),
    ("groups added later not validated", "validation",
     {"        group = self.param_groups[-1]": "        group = self.defaults"}),
    ("NaN let through", "validation", {"if not 0.0 <= beta < 1.0": "if beta < 0.0 or beta >= 1.0"}),
    ("infinity let through", "validation", {"< math.inf": "<= math.inf"}),
    ("contiguous memory assumed", "shapes_and_dtypes",
     {COUNT: f"{COUNT}; p.data = p.data.as_strided(p.shape, torch.empty(p.shape).stride())"}),
    ("rate fixed at the start", "schedule", {RATE: RATE.replace("lr", 'group["initial_lr"]')}),
]  # fmt: skip


def mutated(patches: dict[str, str]) -> type:
    """AdamW as optimizer.py would define it with each text replaced by its patch."""
    source = (ROOT / "optimizer.py").read_text()
    for old, new in patches.items():
        assert source.count(old) >= 1, f"optimizer.py no longer has {old!r}: adapt the mutant"
        source = source.replace(old, new)
    module = types.ModuleType("mutant")
    exec(compile(source, "mutant of optimizer.py", "exec"), module.__dict__)
    return module.AdamW


@pytest.mark.parametrize("check, patches", [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_the_checks_bite(check, patches):
    """Catches: a check that would let this mutant of the optimizer pass."""
    cls = mutated(patches)
    with pytest.raises((Exception, pytest.fail.Exception)):  # an assertion, or the crash that some mutants are
        CHECKS[check](cls)


def test_every_check_is_needed():
    """Catches: a check that no mutant has been seen to fail."""
    assert set(CHECKS) == {check for _, check, _ in MUTANTS}


options = st.fixed_dictionaries({
    "lr": st.floats(0, 1),
    "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
    "eps": st.floats(1e-8, 1),
    "weight_decay": st.floats(0, 1),
    "correct_bias": st.booleans(),
})


@settings(max_examples=60, deadline=None)
@given(options, st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=1, max_size=8), st.floats(-10, 10))
def test_any_hyperparameters(options, grads, value):
    """Catches: a formula right only near the defaults. Any options, any gradients, some missing, zeros included."""
    param = parameter(np.array([value]))
    optimizer = AdamW([param], **options)
    for grad in grads:
        set_grad(param, None if grad is None else np.array([grad]))
        optimizer.step()
    wanted = adamw(np.array([value]), [None if g is None else np.array([g]) for g in grads], len(grads), **options)
    assert_near(param, wanted, 1e-9)


@settings(max_examples=40, deadline=None)
@given(options, st.integers(0, 1000))
def test_the_two_forms_of_bias_correction(options, seed):
    """Catches: an oracle wrong in one form. With eps out of the way they are one; with eps scaled to match, too."""
    value, grads = draw((3,), 4, seed)
    same = {**options, "eps": 1e-30}
    np.testing.assert_allclose(adamw(value, grads, 4, **same), adamw(value, grads, 4, **same, form="hat"), rtol=1e-9)
    if options["correct_bias"]:
        beta2 = options["betas"][1]
        hat = adamw(value, grads[:1], 1, **{**options, "eps": options["eps"] / math.sqrt(1 - beta2)}, form="hat")
        np.testing.assert_allclose(adamw(value, grads[:1], 1, **options), hat, rtol=1e-9)


def test_the_efficient_form_is_told_from_the_other():
    """Catches: checks too loose to see which of the two forms is implemented (eps in one place or the other)."""
    value, grads = draw((3, 5), 6)
    gap = np.abs(adamw(value, grads, 6, **HARSH) - adamw(value, grads, 6, **HARSH, form="hat")).max()
    assert gap > 1e-2


def test_near_torch():
    """Catches: a step far from PyTorch's own AdamW, which differs only as the class's docstring says."""
    value, _ = draw((3, 2), 0)
    ours, theirs = parameter(value), parameter(value)
    pair = [(ours, AdamW([ours], lr=1e-3, eps=0.0, weight_decay=1e-2)),
            (theirs, torch.optim.AdamW([theirs], lr=1e-3, eps=0.0, weight_decay=1e-2))]  # fmt: skip
    for _ in range(20):
        for param, optimizer in pair:
            optimizer.zero_grad()
            (param**2).sum().backward()
            optimizer.step()
    assert_near(ours, theirs.detach().numpy(), 20 * 1e-3 * 1e-2 * 1e-3 * 1.1)  # steps x lr x weight_decay x change


def test_a_quadratic_is_minimised():
    """Catches: an optimizer that does not optimize."""
    param = parameter(draw((5,), 0)[0])
    optimizer = AdamW([param], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (param**2).sum().backward()
        optimizer.step()
    assert param.abs().max() < 1e-2


def test_torchs_adam_is_not_called(monkeypatch):
    """Catches: a step handed to torch's own Adam, fused or not."""
    from torch.utils._python_dispatch import TorchDispatchMode

    called = set()

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.add(str(func))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.optim.Adam, "step", None)
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = torch.ones(3)
    with Listen():
        AdamW([param]).step()
    assert "aten.addcdiv_.default" in called and not any("adam" in name.lower() for name in called)


def test_the_reference_is_the_known_answer():
    """Catches: a .npy that is not what the oracle computes, or not upstream's published figures."""
    published = [[0.55482787, 0.86665666, 0.07291982], [-0.44724506, -0.2951228, -0.2717272]]
    stored = np.load(ROOT / "optimizer_test.npy")
    np.testing.assert_allclose(stored, published, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stored, reference(), rtol=0, atol=1e-6)
    torch.manual_seed(0)
    assert np.array_equal(torch.nn.Linear(3, 2, bias=False).weight.detach().numpy(), FIRST_WEIGHT)


def run_script(folder: object, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *flags, os.path.join(folder, "optimizer_test.py")]
    return subprocess.run(command, cwd="/", capture_output=True, text=True)


def test_the_script_passes():
    """Catches: a path taken from the current folder, a good optimizer called bad."""
    done = run_script(ROOT)
    assert done.returncode == 0 and "largest difference" in done.stdout, done.stderr


def test_the_script_fails(tmp_path):
    """Catches: a verdict by assert, gone under -O; a swallowed failure."""
    for name in ("optimizer.py", "optimizer_test.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("common", "sanity"):
        shutil.copytree(ROOT / name, tmp_path / name)
    np.save(tmp_path / "optimizer_test.npy", reference() * np.float32(1.0002))
    done = run_script(tmp_path, "-O")
    assert done.returncode == 1 and "FAILED" in done.stdout, done.stderr


ACCEPTED = "M15"  # decay before the gradient step, as in torch.optim.AdamW: the script passes it, with a note
SEEN = {name: patches for name, _, patches in MUTANTS if name.startswith("M") and not name.startswith(ACCEPTED)}


@pytest.mark.parametrize("name", SEEN)
def test_the_script_sees_it(name):
    """Catches: a mistake of the course's list that neither the 1000 steps nor the checks step by step notice."""
    cls, stored = mutated(SEEN[name]), torch.from_numpy(np.load(ROOT / "optimizer_test.npy"))
    if not caught_by(sanity.CHECKS, cls):
        assert not torch.allclose(test_optimizer(cls), stored, rtol=1e-4, atol=1e-6)


NAMED: list[tuple[str, dict[str, str]]] = [
    ("correct_bias is ignored", {'if group["correct_bias"]:': "if True:"}),
    ("the bias correction is missing", {SIZE: "pass"}),
    ("lacks its square root", {"math.sqrt(1 - beta2**t)": "(1 - beta2**t)"}),
    ("the corrected means are kept", {MOVE: f"m.div_(1 - beta1**t), v.div_(1 - beta2**t); {MOVE}", SIZE: "pass"}),
    ("eps is inside the square root", {ROOT_PLUS_EPS: f"v.add({EPS}).sqrt()"}),
    ("eps is inside the square root",
     {MOVE: f"p.sub_(lr * (m / (1 - beta1**t)) / (v / (1 - beta2**t) + {EPS}).sqrt())"}),
    ("eps is ignored", {ROOT_PLUS_EPS: "v.sqrt()"}),
    ("eps is ignored, or fixed", {ROOT_PLUS_EPS: "v.sqrt().add_(1e-6)"}),
    ("which is Adam, not AdamW", {COUNT: f'{COUNT}; p.grad = p.grad + group["weight_decay"] * p', DECAY: "pass"}),
    ("is added to the gradient: subtract",
     {COUNT: f'{COUNT}; p.grad = p.grad + lr * group["weight_decay"] * p', DECAY: "pass"}),
    ("weight decay is not multiplied by lr", {RATE: '-group["weight_decay"]'}),
    ("weight decay is not multiplied by lr",
     {MOVE: f"{DECAY.replace('-lr', '-1')}; {MOVE}", f"    {DECAY}\n": "    pass\n"}),
    ("the bias correction is missing", {SIZE: "pass", MOVE: f"{DECAY}; {MOVE}", f"    {DECAY}\n": "    pass\n"}),
    ("all parameters share one step count",
     {'state["step"] += 1': 'state["step"] = self.count = getattr(self, "count", 0) + 1'}),
    ("m starts from zero", {MOVE: f"{MOVE}; m.zero_()"}),
    ("v starts from zero", {MOVE: f"{MOVE}; v.zero_()"}),
    ("sqrt_ and add_ overwrite v", {ROOT_PLUS_EPS: f"v.sqrt_().add_({EPS})"}),
    ("along the gradient", {MOVE: MOVE.replace("(m,", "(p.grad,")}),
    ("the wrong sign: p must move", {MOVE: MOVE.replace("-step_size", "step_size")}),
    ("the square root of the second moment", {ROOT_PLUS_EPS: f"v.add({EPS})"}),
    ("division by zero", {'state["step"] += 1': "pass"}),
]


@pytest.mark.parametrize("named, patches", NAMED)
def test_the_script_names_it(named, patches):
    """Catches: a usual mistake that is only called unknown, or taken for another."""
    mistakes = caught_by(sanity.CHECKS, mutated(patches))
    assert mistakes and named in mistakes[0], mistakes


@pytest.mark.parametrize("patches", [patches for name, _, patches in MUTANTS if name.startswith(ACCEPTED)])
def test_the_script_accepts_decay_before_the_step(patches):
    """Catches: a refusal of an order that the course's own tolerance lets pass, or one that is not mentioned."""
    results = [check(mutated(patches)) for check in sanity.CHECKS]
    assert all(result.passed for result in results)
    assert any("before the gradient step" in result.note for result in results)
