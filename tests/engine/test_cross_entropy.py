"""The output layer's loss and gradients, chunk by chunk, against PyTorch's cross-entropy on all logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from engine import cross_entropy as module
from engine.cross_entropy import linear_cross_entropy

N, C, V = 23, 6, 11


def inputs(n=N, c=C, v=V, dtype=torch.float64, weight_dtype=None, scale=1.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, c, generator=random, dtype=torch.float64)).to(dtype)
    weight = torch.randn(v, c, generator=random, dtype=torch.float64).to(weight_dtype or dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(v, (n,), generator=random)


def loss_and_gradients(function, hidden, weight, targets, factor=1.0):
    loss = function(hidden, weight, targets)
    return loss.detach(), *torch.autograd.grad(loss * factor, (hidden, weight))


def on_all_logits(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.T, targets)


@pytest.fixture(params=[1, 2, 7, 23, 100])
def chunk(request, monkeypatch):
    """Chunks of one row, ragged ones, exactly all rows, and more than there are."""
    monkeypatch.setattr(module, "CHUNK", request.param)
    return request.param


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_pytorchs(chunk, dtype, tolerance):
    """Catches a lost or doubled last chunk, sums for means, a transposed product, and an ignored outer factor.
    The tolerance is some hundred roundings of the type.
    """
    ours = loss_and_gradients(linear_cross_entropy, *inputs(dtype=dtype), factor=3.0)
    theirs = loss_and_gradients(on_all_logits, *inputs(), factor=3.0)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == dtype
        torch.testing.assert_close(our.double(), their, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 30), st.integers(1, 45), st.floats(0.0, 20.0),
       st.integers(0, 2**31))
def test_any_shape_and_scale(n, c, v, chunk, scale, seed):
    """Catches what the shapes above do not: one class, one row, one feature, logits of all sizes."""
    before, module.CHUNK = module.CHUNK, chunk
    try:
        ours = loss_and_gradients(linear_cross_entropy, *inputs(n, c, v, scale=scale, seed=seed))
    finally:
        module.CHUNK = before
    theirs = loss_and_gradients(on_all_logits, *inputs(n, c, v, scale=scale, seed=seed))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)


def test_numerical_gradient():
    """Catches a gradient that agrees with PyTorch's by sharing its formula: finite differences share nothing."""
    hidden, weight, targets = inputs(5, 3, 4)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight))


def test_bfloat16_products_with_float32_weights(chunk):
    """Catches sums of the loss or of the weight's gradient in bfloat16. Its numbers have 8 bits: a probability is off
    by 2^-9 of itself, hence a token's loss by 0.002; the mean over 4,000 tokens was off by 3e-5, the gradients by 0.3%
    of their norms, whatever the chunk.
    """
    hidden, weight, targets = inputs(4000, 32, 50, torch.bfloat16, torch.float32, scale=0.2)
    loss, *gradients = loss_and_gradients(linear_cross_entropy, hidden, weight, targets)
    exact = [tensor.detach().bfloat16().double().requires_grad_() for tensor in (hidden, weight)]
    their_loss, *their_gradients = loss_and_gradients(on_all_logits, *exact, targets)
    assert abs(loss.double() - their_loss) < 2e-4 and loss.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]
    for our, their in zip(gradients, their_gradients, strict=True):
        assert (our.double() - their).norm() / their.norm() < 0.006


def test_one_token_in_bfloat16():
    """Catches a rounding of more than 2^-8 (the probability's and the logits') in a single token's loss."""
    for seed in range(50):
        hidden, weight, targets = inputs(1, 8, 5, torch.bfloat16, scale=0.1, seed=seed)
        logits = (hidden @ weight.T).detach().double()
        assert abs(linear_cross_entropy(hidden, weight, targets).double() - F.cross_entropy(logits, targets)) < 2**-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_gradients(chunk, dtype):
    """Catches an evaluation that differs from training's loss, keeps a graph, or is rounded to bfloat16."""
    hidden, weight, targets = inputs(dtype=dtype, weight_dtype=torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
        theirs = F.cross_entropy((hidden @ weight.to(dtype).T).double(), targets)
    assert loss.dtype == torch.float32 and not loss.requires_grad
    assert float(loss) == pytest.approx(float(theirs), rel=1e-6)
    with torch.inference_mode():
        assert linear_cross_entropy(hidden, weight, targets) == loss


def test_hopeless_tokens():
    """Catches a loss of infinity or a gradient of NaN where a probability underflows: float32's smallest is e^-87."""
    hidden = torch.tensor([[200.0], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    targets = torch.tensor([1, 0])
    loss, *gradients = loss_and_gradients(linear_cross_entropy, hidden, weight, targets)
    assert float(loss) == pytest.approx((-math.log(torch.finfo(torch.float32).tiny) + math.log(2)) / 2, rel=1e-6)
    assert 87 < 2 * float(loss) - math.log(2) < 88
    for our, their in zip(gradients, loss_and_gradients(on_all_logits, hidden, weight, targets)[1:], strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_shows(value):
    """Catches a clamp that hides NaN from the loop, which would then train on with broken weights."""
    hidden, weight, targets = inputs(dtype=torch.float32)
    with torch.no_grad():
        hidden[3, 1] = value
    assert not linear_cross_entropy(hidden, weight, targets).isfinite()


def test_frozen_embedding_or_hidden():
    """Catches a gradient for what asked for none, or none for what did."""
    hidden, weight, targets = inputs()
    linear_cross_entropy(hidden.detach(), weight, targets).backward()
    linear_cross_entropy(hidden, weight.detach(), targets).backward()
    _, grad_hidden, grad_weight = loss_and_gradients(on_all_logits, *inputs())
    torch.testing.assert_close(hidden.grad, grad_hidden)
    torch.testing.assert_close(weight.grad, grad_weight)


def test_a_second_derivative_is_refused():
    """Catches a silently wrong one: the gradients are computed in the forward pass, so they have no graph."""
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, targets) ** 2  # so that the gradient depends on the loss
    gradient, = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("gradients", [True, False])
def test_all_logits_are_never_there_at_once(monkeypatch, gradients):
    """Catches what the module exists to avoid: any tensor larger than one chunk's logits or the weights."""
    monkeypatch.setattr(module, "CHUNK", 16)
    hidden, weight, targets = inputs(n=400, c=8, v=60)
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.extend(tensor.numel() for tensor in [result] if isinstance(tensor, torch.Tensor))
            return result

    with Watch(), torch.set_grad_enabled(gradients):
        loss = linear_cross_entropy(hidden, weight, targets)
        if gradients:
            loss.backward()
    assert 16 * 60 in largest and max(largest) <= 400 * 8
