"""Every fast way of AdamW against the definition in optimizer.py: same bits on a CPU, a stated bound on CUDA."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optimizer_fast
from optimizer import AdamW, adamw_update
from optimizer_fast import Kernel, Update
from tests.oracles import ROOT

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (cc) on this machine")

SIZES = [(), (0,), (1,), (3,), (17,), (33, 31), (129, 5), (64, 64)]
NUMBERS = (0.9, 0.999, 1e-6, 1e-3, 1e-2)  # beta1, beta2, eps, step size, decay


@pytest.fixture(scope="session")
def compiled() -> Kernel:
    kernel = Kernel()
    kernel.compile(adamw_update)
    assert kernel.function is not None, "cc is there, but the kernel does not compile or does not agree"
    return kernel


@pytest.fixture(autouse=True)
def kernel(monkeypatch) -> Kernel:
    """Each test begins as a new process does: nothing compiled."""
    monkeypatch.setattr(optimizer_fast, "kernel", Kernel())
    return optimizer_fast.kernel


def tensors(size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """A parameter, a gradient and two moments, of many magnitudes; some gradients and moments are zero."""
    generator = torch.Generator().manual_seed(seed)
    param, grad, mean, square = torch.randn(4, size, generator=generator)
    scale = 10 ** torch.empty(size).uniform_(-12, 8, generator=generator)
    zero = torch.rand(size, generator=generator) < 0.2
    return [param.to(dtype), (grad * scale).masked_fill(zero, 0).to(dtype),
            (mean * scale).masked_fill(zero, 0), (square * scale).square().masked_fill(zero, 0)]  # fmt: skip


def copies(update: Update) -> Update:
    return Update(*(t.clone() for t in update[:4]), *update[4:])


def same_bits(one: Update, two: Update) -> bool:
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one[:4], two[:4], strict=True))


def train(steps: int, dtype: torch.dtype = torch.float32, switch: int | None = None, kernel: Kernel | None = None):
    """Parameters and moments after some steps of three groups with missing gradients; `kernel` from step `switch`."""
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in SIZES]
    params.append(torch.nn.Parameter(torch.randn(6, 4, generator=generator).to(dtype).t()))  # not contiguous
    optimizer = AdamW(
        [{"params": params[:3]}, {"params": params[3:6], "lr": 0.1, "betas": (0.3, 0.9), "weight_decay": 0.1},
         {"params": params[6:], "correct_bias": False, "eps": 1e-2}], lr=0.01)  # fmt: skip
    for step in range(steps):
        if step == switch:
            optimizer_fast.kernel = kernel
        for i, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator).to(dtype)
            param.grad = None if (step + i) % 4 == 0 else grad
        optimizer.step()
    return [*params, *(value for p in params for value in optimizer.state[p].values() if torch.is_tensor(value))]


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(1, 4), st.integers(0, 10**6),
       st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999), st.floats(1e-8, 1), st.floats(0, 1),
                 st.one_of(st.just(0.0), st.floats(0, 0.5))))  # fmt: skip
def test_the_kernel_is_the_definition(compiled, size, threads, seed, numbers):
    """Catches: another rounding, a tail left out, a share done twice, decay of nothing turning infinity into NaN."""
    update = Update(*tensors(size, seed), *numbers)
    other = Update(*tensors(size, seed + 1), *numbers)
    wanted, wanted2 = copies(update), copies(other)
    adamw_update(*wanted)
    adamw_update(*wanted2)
    compiled.run([update, other], threads)
    assert same_bits(update, wanted) and same_bits(other, wanted2)


@needs_compiler
def test_where_pytorch_has_other_threads(compiled, monkeypatch):
    """Catches: a crash, or a share that nobody does, where there is no OpenMP under GNU's names (macOS)."""
    monkeypatch.setattr(optimizer_fast.ctypes, "CDLL", lambda name: object())
    assert optimizer_fast.find_team() is None
    monkeypatch.setattr(compiled, "team", None)
    update = Update(*tensors(300), *NUMBERS)
    wanted = copies(update)
    adamw_update(*wanted)
    compiled.run([update], threads=2)
    assert same_bits(update, wanted)


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's OpenMP is asked for on Linux only")
def test_the_kernel_runs_in_pytorchs_threads(compiled):
    """Catches: threads of our own beside PyTorch's, which on two cores made a small model's step twice as long."""
    assert compiled.team is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.zeros(10**6).add_(1)
        threads = len(os.listdir("/proc/self/task"))
        compiled.run([Update(*tensors(10**6), *NUMBERS)])
        assert len(os.listdir("/proc/self/task")) == threads
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("switch", [0, 3])
def test_the_kernel_can_start_at_any_step(compiled, dtype, switch):
    """Catches: results that depend on when the kernel came: groups, gaps, shapes and dtypes, those not for it too."""
    plain = train(6, dtype)
    optimizer_fast.kernel = Kernel()
    fast = train(6, dtype, switch, compiled)
    assert all(torch.equal(a, b) for a, b in zip(plain, fast, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 6, 7, 8, 100])
def test_pieces_are_the_definition(monkeypatch, dtype, size):
    """Catches: a cut that loses the tail, half precision rounded more than once."""
    monkeypatch.setattr(optimizer_fast, "PIECE", 7)
    precision = torch.promote_types(dtype, torch.float32)
    param, grad, mean, square = tensors(size, dtype=dtype)
    update = Update(param, grad.clamp(-1e3, 1e3), mean.to(precision), square.to(precision), *NUMBERS)
    wanted = copies(update)
    wide = wanted.param.to(precision)
    adamw_update(wide, wanted.grad.to(precision), *wanted[2:])
    wanted.param.copy_(wide)
    optimizer_fast.apply_in_pieces(adamw_update, update)
    assert same_bits(update, wanted)


def test_many_at_a_time_is_the_definition():
    """Catches: a wrong formula on CUDA, one rate or decay for all. The bound: 1e-6 of the step, an ulp of the rest."""
    updates = [Update(*tensors(50, i), *NUMBERS[:3], 1e-3 * (i + 1), 1e-2 * (i % 2)) for i in range(4)]
    wanted = [copies(u) for u in updates]
    before = [u.param.clone() for u in updates]
    optimizer_fast.apply_many(updates)
    for got, want, start in zip(updates, wanted, before, strict=True):
        adamw_update(*want)
        step = (want.param - start).abs()
        assert ((got.param - want.param).abs() <= 1e-6 * step + 1.2e-7 * want.param.abs()).all()
        assert torch.allclose(got.exp_avg, want.exp_avg, rtol=1e-6, atol=0)
        assert torch.allclose(got.exp_avg_sq, want.exp_avg_sq, rtol=1e-6, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    """Catches: a CUDA step that differs from the CPU's."""
    update = Update(*tensors(1000), *NUMBERS)
    there = Update(*(t.cuda() for t in update[:4]), *update[4:])
    adamw_update(*update)
    optimizer_fast.apply(adamw_update, [there])
    assert torch.allclose(there.param.cpu(), update.param, rtol=1e-6, atol=1e-8)


def test_short_runs_compile_nothing(monkeypatch):
    """Catches: a compiler started for a run that will not earn it back."""
    started = []
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: started.append(a) or (_ for _ in ()).throw(OSError()))
    train(20)
    assert not started
    assert optimizer_fast.KERNEL_PAYS >= 20 * 1_000_000


@needs_compiler
def test_long_runs_compile_once(monkeypatch, kernel):
    """Catches: a kernel never reached, or compiled at every step."""
    compilations = []
    compile_ = Kernel.compile
    monkeypatch.setattr(Kernel, "compile", lambda self, d: compilations.append(self.work_seen) or compile_(self, d))
    monkeypatch.setattr(optimizer_fast, "KERNEL_PAYS", 10_000)
    train(6)
    assert len(compilations) == 1 and compilations[0] >= 10_000 and kernel.function is not None


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false", "'", f"{sys.executable} -c pass"])
def test_without_a_compiler(monkeypatch, kernel, compiler):
    """Catches: a crash, or a compiler looked for at every step, where there is none, or one that fails or lies."""
    wanted = train(6)
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(optimizer_fast, "KERNEL_PAYS", 0)
    got = train(6)
    assert kernel.tried and kernel.function is None
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@needs_compiler
@pytest.mark.parametrize("old, new", [("c.decay ?", "c.decay != c.decay ?"), ("sqrtf(v)", "sqrtf(v) * 1.0000002f"),
                                      ("(part + 1) / parts", "(part + 1) / parts - 1"),
                                      ("const int near = c.rest1 < 0.5f", "const int near = 1")])  # fmt: skip
def test_a_kernel_that_disagrees_is_not_used(monkeypatch, kernel, old, new):
    """Catches: a self-check too weak to see one rounding, one element, one rarely taken branch."""
    assert optimizer_fast.SOURCE.count(old) == 1
    monkeypatch.setattr(optimizer_fast, "SOURCE", optimizer_fast.SOURCE.replace(old, new))
    kernel.compile(adamw_update)
    assert kernel.tried and kernel.function is None


def test_what_is_not_for_the_kernel():
    """Catches: memory read where there is none, in another layout, type or size, or with a sign still to be turned."""

    class Subclass(torch.Tensor):
        pass

    good = tensors(6)
    assert optimizer_fast._suits_kernel(Update(*good, *NUMBERS))
    for bad in (
        torch.zeros(6, device="meta"),
        torch.zeros(6, dtype=torch.float64),
        torch.zeros(5),
        torch.zeros(12)[::2],
        torch._neg_view(torch.zeros(6)),
        torch._efficientzerotensor(6),
        torch.zeros(6).as_subclass(Subclass),
    ):
        for place in range(4):
            update = Update(*good[:place], bad, *good[place + 1:], *NUMBERS)
            assert not optimizer_fast._suits_kernel(update)


@needs_compiler
@pytest.mark.parametrize("fast", [True, False])
def test_autograd_notices_the_step(compiled, fast):
    """Catches: a backward pass through values that a step has changed since, silently wrong."""
    if fast:
        optimizer_fast.kernel = compiled
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([param])
    loss = (param**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("contender", ["ours", "ours, no compiler"])
def test_memory_beyond_the_moments(contender):
    """Catches: a temporary as large as the largest parameter (154 MB for GPT-2's embedding)."""
    code = f"from benchmarks.adamw import *; torch.set_num_threads(2); print(extra_memory({contender!r}, 'gpt2'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 64
