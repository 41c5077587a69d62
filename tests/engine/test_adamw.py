"""FastAdamW against the definition in optimizer.py and against an oracle in float64."""

import copy
import mmap
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import adamw as adamw_module
from engine.adamw import FastAdamW
from optimizer import AdamW
from tests.oracles import adamw

SHAPES = [(), (0,), (1,), (17,), (33, 31), (2, 3, 4)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


def parameters(dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    plain = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    turned = torch.randn(6, 4, generator=generator, dtype=torch.float64).t()  # not contiguous
    return [torch.nn.Parameter(tensor.to(device, dtype)) for tensor in (*plain, turned)]


def train(kind, dtype=torch.float32, device="cpu", steps=12, optimizer_from=None):
    """Parameters after some steps of three groups, with gradients of many sizes, zero and None."""
    params, generator = parameters(dtype, device), torch.Generator().manual_seed(1)
    optimizer = kind([{"params": params[:3]},
                      {"params": params[3:5], "lr": 0.1, "betas": (0.3, 0.9), "weight_decay": 0.3, "eps": 1e-2},
                      {"params": params[5:], "correct_bias": False, "weight_decay": 0.1}], lr=0.01)
    for step in range(steps):
        if step == optimizer_from:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(optimizer.param_groups)
            optimizer.load_state_dict(state)
        for i, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator, dtype=torch.float64) * 10.0 ** (i - 3)
            grad = (grad * (step % 5 != 3)).to(device, dtype)
            grad = grad.t().contiguous().t() if i % 2 and grad.ndim == 2 else grad  # another layout
            param.grad = None if (step + i) % 4 == 0 else grad
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_it_is_the_definition(dtype, tolerance, device):
    """Catches: another order of decay, eps in another place, step counts mixed up, layouts read in the wrong order."""
    for ours, want in zip(train(FastAdamW, dtype, device)[0], train(AdamW, dtype, device)[0], strict=True):
        torch.testing.assert_close(ours, want, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(lr=st.floats(0, 1), beta1=st.floats(0, 0.99), beta2=st.floats(0, 0.999), eps=st.floats(1e-8, 1),
       decay=st.floats(0, 2), correct_bias=st.booleans(), seed=st.integers(0, 10**6), scale=st.integers(-6, 3))
def test_it_is_the_oracle(lr, beta1, beta2, eps, decay, correct_bias, seed, scale):
    """Catches: a formula that only holds for the usual options; lr * weight_decay of 1, where nothing of p is left."""
    random = np.random.default_rng(seed)
    start, grads = random.normal(size=7), [random.normal(size=7) * 10.0**scale for _ in range(4)]
    grads[2] = None
    options = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": decay, "correct_bias": correct_bias}
    param = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = FastAdamW([param], **options)
    for grad in grads:
        param.grad = None if grad is None else torch.from_numpy(grad)
        optimizer.step()
    want = adamw(start, grads, len(grads), **options)
    np.testing.assert_allclose(param.detach().numpy(), want, rtol=1e-9, atol=1e-9)


def test_nothing_is_left_of_p_where_decay_is_one():
    """Catches: a division by zero for lr * weight_decay = 1."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    FastAdamW([param], lr=1.0, weight_decay=1.0).step()
    assert param.abs().max() < 1e-15


def test_its_state_is_the_definitions():
    """Catches: names or types that the definition could not resume from, a count of None gradients."""
    (_, ours), (_, want) = train(FastAdamW), train(AdamW)
    for mine, theirs in zip(ours.state.values(), want.state.values(), strict=True):
        assert mine.keys() == theirs.keys() and mine["step"] == theirs["step"] and type(mine["step"]) is int
        torch.testing.assert_close(mine["exp_avg"], theirs["exp_avg"], rtol=1e-5, atol=1e-5)


def test_it_resumes_to_the_same_bits():
    """Catches: state that load_state_dict loses or rounds."""
    whole, resumed = train(FastAdamW)[0], train(FastAdamW, optimizer_from=5)[0]
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_gradients_are_left_alone():
    """Catches: a kernel that scales gradients in place."""
    param = torch.nn.Parameter(torch.ones(5))
    param.grad = torch.arange(5.0)
    before = param.grad
    FastAdamW([param], lr=0.1, weight_decay=0.1).step()
    assert param.grad is before and torch.equal(before, torch.arange(5.0))


def test_closure():
    """Catches: a loss that is swallowed, a closure without gradients."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = FastAdamW([weight])

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2 and (weight != 1).all()


WORDS = [[3, 3, 17], [4], [17, 99, 0], [], [5, 6, 7, 8, 99], [3], [1, 2, 3], [42]]
"""The rows of an embedding that have a gradient in each step."""


def rows_alone(sparse, words=WORDS, width=5, resumed_at=None, **options):
    """An embedding [100, width] after a step for each list of words, and its optimizer."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(100, width, generator=generator))
    optimizer = FastAdamW([weight], lr=0.1, **options)
    for number, rows in enumerate(words):
        if number == resumed_at:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = FastAdamW([weight], lr=0.1, **options)
            optimizer.load_state_dict(state)
        values = torch.randn(len(rows), width, generator=generator)
        grad = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, weight.shape,
                                       check_invariants=True)
        weight.grad = grad if sparse else grad.to_dense()
        optimizer.step()
    return weight.detach(), optimizer


@pytest.mark.parametrize("options", [{}, {"correct_bias": False}, {"weight_decay": 0.1}, {"betas": (0.5, 0.6)}],
                         ids=str)
@pytest.mark.parametrize("block", [1, 12, 2**19])
def test_a_sparse_gradient_is_a_dense_one(monkeypatch, block, options):
    """Catches: rows that have momentum but no gradient left where they are, a word that occurs twice counted once,
    rows without weight decay, a block skipped or done twice.
    """
    monkeypatch.setattr("engine.adamw.BLOCK", block)
    (ours, optimizer), (want, dense) = rows_alone(True, **options), rows_alone(False, **options)
    torch.testing.assert_close(ours, want, rtol=1e-6, atol=1e-6)
    for name in ("exp_avg", "exp_avg_sq"):
        (got,), (expected,) = (list(which.state.values()) for which in (optimizer, dense))
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-7)


def test_rows_that_nothing_moves_are_not_touched(monkeypatch):
    """Catches: a pass over all 50,257 words for the hundred words of a batch."""
    seen, step = [], adamw_module.fused_step
    monkeypatch.setattr(adamw_module, "fused_step",
                        lambda params, *rest: seen.append(len(params[0])) or step(params, *rest))
    rows_alone(True)
    assert seen == [2, 3, 5, 5, 9, 9, 11, 12]


def test_many_rows_are_updated_as_one():
    """Catches: copies of most of the embedding to and fro, slower than one pass over all of it; or a mix-up on the way
    there and back.
    """
    words = [[1, 2], list(range(60)), [3], list(range(55, 100))]
    for got, want in zip(rows_alone(True, words)[0], rows_alone(False, words)[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(words=st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=2, max_size=12), data=st.data())
def test_a_sparse_run_is_resumed_to_the_same_bits(words, data):
    """Catches: rows in motion forgotten or others added on the way through a checkpoint; each width has other rests in
    the kernel's vectors.
    """
    width, at = data.draw(st.sampled_from([1, 5, 16])), data.draw(st.integers(1, len(words) - 1))
    assert torch.equal(rows_alone(True, words, width)[0], rows_alone(True, words, width, resumed_at=at)[0])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_dense_step_between_sparse_ones(decay):
    """Catches: rows moved by a dense gradient, or by decay at another rate, that the next sparse step forgets."""
    found = []
    for sparse in (True, False):
        generator = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(100, 5, generator=generator))
        optimizer = FastAdamW([weight], lr=0.1, weight_decay=decay)
        for step, lr in enumerate((0.0, 0.1, 0.1, 0.0, 0.1)):
            grad = torch.zeros(100, 5)
            grad[[step, 40 + step]] = torch.randn(2, 5, generator=generator)
            optimizer.param_groups[0]["lr"] = lr
            weight.grad = grad.to_sparse(1) if sparse and step != 2 else grad
            optimizer.step()
        found.append((weight.detach(), *(optimizer.state[weight][name] for name in ("exp_avg", "exp_avg_sq"))))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_steps_as_the_optimizer_itself(take):
    """Catches: rows in motion that are not part of a copy, or are shared with it. Checkpoints are read with a copy."""
    weight = torch.nn.Parameter(torch.ones(9, 2))
    optimizer = FastAdamW([weight], lr=0.1)
    weight.grad = torch.eye(9, 2).to_sparse(1)  # rows 0 and 1
    optimizer.step()
    for one in (take(optimizer), optimizer):
        p = one.param_groups[0]["params"][0]
        with torch.no_grad():
            p.fill_(1.0)
        p.grad = torch.zeros(9, 2).to_sparse(1)
        one.step()
        assert one.moving is not optimizer.moving or one is optimizer
        assert (p != 1).any(dim=1).tolist() == [True] * 2 + [False] * 7


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_that_do_not_move_take_no_memory():
    """Catches: moments of a hundred megabytes of zeros."""
    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    weight = torch.nn.Parameter(torch.ones(2**16, 2**8))  # 64 MB, and 128 MB of moments
    weight.grad = torch.sparse_coo_tensor([[5]], torch.ones(1, 2**8), weight.shape, check_invariants=True)
    optimizer = FastAdamW([weight], lr=0.1)
    before = held()
    optimizer.step()
    assert held() - before < weight.nbytes / 2  # which rows move is looked for with a byte for each number
    assert weight[5].ne(1).all() and optimizer.state[weight]["exp_avg"].count_nonzero() == 2**8


def test_rows_whose_moments_have_faded_rest_again():
    """Catches: a resumed run that moves other rows than the run itself did, since theirs are all zero by now."""
    _, optimizer = rows_alone(True, [[7]] + [[1]] * 1200, betas=(0.5, 0.5))
    (state,), (_, moving) = optimizer.state.values(), *optimizer.moving.values()
    assert state["exp_avg"][7].abs().max() == 0 and moving.nonzero().tolist() == [[1]]


@settings(deadline=None, max_examples=60)
@given(lr=st.floats(1e-6, 10), betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)), eps=st.floats(1e-8, 1),
       sizes=st.lists(st.floats(0, 1.8e19), min_size=1, max_size=5), correct_bias=st.booleans())
def test_no_step_is_larger_than_its_bound(lr, betas, eps, sizes, correct_bias):
    """Catches: a bound that a step can break, and with it weights of infinity that nobody looks for."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = FastAdamW([weight], lr=lr, betas=betas, eps=eps, correct_bias=correct_bias)
    for size in sizes:
        before = weight.item()
        weight.grad = torch.tensor([size])
        optimizer.step()
        assert abs(weight.item() - before) <= optimizer.largest_change() * (1 + 1e-6)


def test_autograd_notices_the_step():
    """Catches: a backward pass through values that a step has changed since, silently wrong."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = FastAdamW([param])
    loss = (param**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
