"""AdamW, by hand: `adamw_update` is the whole method; the class around it keeps the books."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

import optimizer_fast


def adamw_update(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    step_size: float,
    decay: float,
) -> None:
    """One step of AdamW on one tensor: the definition. Changes `param` and the moments in place, not `grad`.

    All four tensors have one shape and one dtype. `step_size` is the learning rate with the bias corrections
    in it (see `AdamW`), `decay` is learning rate x weight decay.
    """
    exp_avg.lerp_(grad, 1 - beta1)  # exp_avg + (1 - beta1) (grad - exp_avg)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    param.addcdiv_(exp_avg, _square_root(exp_avg_sq).add_(eps), value=-step_size)
    if decay:
        param.add_(param, alpha=-decay)  # not mul_(1 - decay): in float32 that factor is a multiple of 6e-8


def _square_root(x: Tensor) -> Tensor:
    """A new tensor: the square root, as 1 / (1 / sqrt(x)) where torch has it round alike on all CPUs.

    torch.sqrt rounds as the library it was built with (MKL: one unit in the last place off for 0.6% of numbers),
    which optimizer_fast could not repeat bit for bit.
    """
    return x.rsqrt().reciprocal_() if x.device.type == "cpu" else x.sqrt()


class AdamW(torch.optim.Optimizer):
    r"""Adam with decoupled weight decay.

    For a parameter p with gradient g, at its t-th step (t = 1, 2, ...), from m = v = 0:

        m <- beta1 m + (1 - beta1) g             running mean of the gradient           (`exp_avg`)
        v <- beta2 v + (1 - beta2) g^2           running mean of its square             (`exp_avg_sq`)
        p <- p - lr m_hat / (sqrt(v_hat) + ...)  a step of about lr, whatever the gradient's scale
        p <- p - lr weight_decay p               decay, apart from the gradient: it is not divided by sqrt(v)

    Both means start at zero and are too small at first. Unrolled, m = (1 - beta1) sum_i beta1^(t-i) g_i, and
    these weights add up to 1 - beta1^t instead of 1; so m_hat = m / (1 - beta1^t), likewise v_hat = v / (1 -
    beta2^t). Rather than correct two tensors, the "efficient" form (Kingma & Ba, end of section 2) puts both
    corrections into one number,

        step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t)
        p <- p - step_size m / (sqrt(v) + eps)

    with eps added to the uncorrected sqrt(v). `correct_bias=False` leaves step_size = lr.

    torch.optim.AdamW differs in three ways:
    - it decays before the gradient step, not after. The orders are lr weight_decay times the change
      of p apart. Over the 1000 steps of optimizer_test.py, in which p moves by 0.56, that makes 4e-8;
    - it adds eps to the corrected sqrt(v_hat), so ours weighs 1 / sqrt(1 - beta2^t) times as much: 32 times
      at first, 1.3 times at step 1000. In the same test, with one eps, that makes 1.3e-6; but the first step
      for a gradient of 1e-5, near eps, is 0.24 lr here and 0.91 lr there;
    - its defaults are eps=1e-8 and weight_decay=1e-2, ours 1e-6 and 0. With its defaults the same test ends
      5e-3 from where it should, nearly all of it due to the decay.

    Args:
        params: parameters, or dicts with "params" and any of the options below (parameter groups).
        lr: learning rate, >= 0.
        betas: decay rates of the two means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: >= 0; multiplied by lr.
        correct_bias: whether to correct the means for their start at zero.

    A parameter whose gradient is None is left alone: no decay, no step counted. Each parameter counts its own
    steps. Its state: `step` (int), `exp_avg` and `exp_avg_sq`. These have the parameter's dtype but at least
    float32, because a bfloat16 mean cannot move by 0.1% at a time. Half-precision parameters are updated in
    float32 and rounded once.

    Raises:
        ValueError: a hyper-parameter out of range, in the defaults, a group or a loaded state.
        RuntimeError: a gradient that is sparse or complex.

    Kingma & Ba 2015, Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980
    Loshchilov & Hutter 2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        _validate(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options not named come from the defaults. Raises ValueError like the constructor."""
        if isinstance(param_group, dict):  # else the base class says what it wants
            _validate({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss (None without a closure).

        The closure, if given, recomputes the loss and its gradients; it is called once, before the update.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for param, _ in ready:  # before anything changes
            if param.grad.layout != torch.strided or param.grad.is_complex():
                raise RuntimeError("AdamW takes no sparse or complex gradients")
        updates = [self._next_update(param, group) for param, group in ready]
        optimizer_fast.apply(adamw_update, updates)  # adamw_update(*update) for each of them
        return loss

    def _next_update(self, param: Tensor, group: dict[str, Any]) -> optimizer_fast.Update:
        """Count the step of `param` and say what is to be done to it: the arguments of `adamw_update`."""
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param, dtype=_precision(param))
            state["exp_avg_sq"] = torch.zeros_like(param, dtype=_precision(param))
        state["step"] += 1

        lr, (beta1, beta2), step = group["lr"], group["betas"], state["step"]
        step_size = lr
        if group["correct_bias"]:
            step_size = lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        return optimizer_fast.Update(
            param, param.grad, state["exp_avg"], state["exp_avg_sq"],
            beta1, beta2, group["eps"], step_size, lr * group["weight_decay"],
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over `state_dict`. Unlike the base class, copy the moments and keep their precision."""
        for group in state_dict["param_groups"]:
            _validate(group)
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved, params, strict=True):
            if index in state_dict["state"]:
                state = state_dict["state"][index]
                self.state[param] = {
                    "step": int(state["step"]),
                    "exp_avg": state["exp_avg"].to(param.device, _precision(param), copy=True),
                    "exp_avg_sq": state["exp_avg_sq"].to(param.device, _precision(param), copy=True),
                }


def _precision(param: Tensor) -> torch.dtype:
    """The dtype of the moments and of the arithmetic."""
    return torch.promote_types(param.dtype, torch.float32)


def _validate(group: dict[str, Any]) -> None:
    """Raise ValueError naming the first hyper-parameter of `group` that is no number or out of range."""

    missing = {"lr", "betas", "eps", "weight_decay", "correct_bias"} - group.keys()
    if missing:
        raise ValueError(f"a parameter group without {', '.join(sorted(missing))}")

    def check(name: str, value: Any, below: float = math.inf) -> None:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (is_number and 0 <= value < below):  # also false for NaN
            raise ValueError(f"{name} must be a number in [0, {below:g}), not {value!r}")

    check("lr", group["lr"])
    check("eps", group["eps"])
    check("weight_decay", group["weight_decay"])
    try:
        beta1, beta2 = group["betas"]
    except (TypeError, ValueError):
        raise ValueError(f"betas must be a pair of numbers, not {group['betas']!r}") from None
    check("betas[0]", beta1, below=1)
    check("betas[1]", beta2, below=1)
    if not isinstance(group["correct_bias"], bool):
        raise ValueError(f"correct_bias must be True or False, not {group['correct_bias']!r}")
