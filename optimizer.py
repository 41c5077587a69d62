"""AdamW, by hand: the whole method is the loop in `step`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class AdamW(torch.optim.Optimizer):
    r"""Adam with decoupled weight decay.

    A parameter p with gradient g changes at its t-th step (t = 1, 2, ...) like this, from m = v = 0:

        m <- beta1 m + (1 - beta1) g             running mean of the gradient    (`exp_avg`)
        v <- beta2 v + (1 - beta2) g^2           running mean of its square      (`exp_avg_sq`)
        p <- p - step_size m / (sqrt(v) + eps)   about lr, whatever the gradient's scale
        p <- p - lr weight_decay p               decoupled: not divided by sqrt(v)

    Both means start at zero, so at first they are too small. Unrolled, m = (1 - beta1) sum_i beta1^(t-i) g_i; these
    weights add up to 1 - beta1^t instead of 1. Dividing m by 1 - beta1^t and v by 1 - beta2^t corrects that. The
    "efficient" form (Kingma & Ba, end of section 2) corrects one number instead of two tensors:

        step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t)

    With `correct_bias=False`, step_size = lr.

    `torch.optim.AdamW` differs in three ways. It decays before the gradient step; the results differ by
    lr * weight_decay * (the change of p). It adds eps to the corrected sqrt(v), where the same eps has a smaller
    effect. Its defaults are eps=1e-8 and weight_decay=1e-2; ours are 1e-6 and 0.

    Args:
        params: parameters, or dicts with "params" and any of the options below (parameter groups).
        lr: learning rate, >= 0.
        betas: decay rates of the two means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: >= 0; multiplied by lr.
        correct_bias: whether to correct the means for their start at zero.

    What is kept for a parameter p is in self.state[p]: `step` (t), `exp_avg` (m), `exp_avg_sq` (v). A parameter whose
    gradient is None is left alone: no decay, no step counted.

    Raises:
        ValueError: an option is out of range.
        RuntimeError: `step` finds a sparse gradient.

    Kingma & Ba 2015, Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980
    Loshchilov & Hutter 2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0, correct_bias: bool = True) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "correct_bias": correct_bias})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; the constructor calls this for each. ValueError for an option out of range."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]  # with the defaults filled in
        for name in ("lr", "eps", "weight_decay"):
            if not 0.0 <= group[name] < math.inf:
                raise ValueError(f"{name} must be a number from 0 up, not {group[name]!r}")
        for beta in group["betas"]:
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas must lie in [0, 1), not {group['betas']!r}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("AdamW takes no sparse gradients")

                # BEGIN SOLUTION
                # Each parameter counts its own steps.
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                t, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]

                # The two running means.
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)

                # The gradient step, with both bias corrections in its size.
                step_size = lr
                if group["correct_bias"]:
                    step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                p.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-step_size)

                # Decay comes last, and takes lr, not step_size. Not mul_(1 - lr * weight_decay): in float32 that
                # factor is a multiple of 6e-8, which is coarse beside 1e-5 * 0.01.
                if group["weight_decay"]:
                    p.add_(p, alpha=-lr * group["weight_decay"])
                # END SOLUTION
        return loss
