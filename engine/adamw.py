"""optimizer.AdamW's step in one pass over memory, by PyTorch's fused kernel.

PyTorch's kernel computes another AdamW: it decays before the gradient step, and adds eps to the corrected sqrt(v). With
bc1 = 1 - beta1^t, bc2 = 1 - beta2^t and other arguments it computes ours:

    theirs:  p (1 - lr' wd') - lr' / bc1  m / (sqrt(v) / sqrt(bc2) + eps')
    ours:   (p - lr sqrt(bc2) / bc1  m / (sqrt(v) + eps)) (1 - lr wd)

They are equal for eps' = eps / sqrt(bc2), lr' = lr (1 - lr wd) and wd' = lr wd / lr'.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

UNBIASED_STEP = 1e9
"""A step count so high that PyTorch's kernel finds nothing to correct: beta^t is 0."""


class FastAdamW(torch.optim.Optimizer):
    """An AdamW with the arguments of optimizer.AdamW, for dense parameters on a CPU or on CUDA.

    Its state is named as there: `step` (int), `exp_avg`, `exp_avg_sq`. Results differ from the definition's by float32
    rounding. RuntimeError for a sparse gradient.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0, correct_bias: bool = True) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "correct_bias": correct_bias})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # The kernel takes many tensors at once if they have one step count, dtype and device.
            alike: dict[tuple, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("AdamW takes no sparse gradients")
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    # Contiguous, whatever the layout of p: see `update`.
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
                    state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
                state["step"] += 1
                alike[state["step"], p.dtype, p.device].append(p)
            for (t, _, device), params in alike.items():
                self.update(params, group, t, device)
        return loss

    def update(self, params: list[Tensor], group: dict[str, Any], t: int, device: torch.device) -> None:
        """Do the t-th step of some parameters, all of one dtype and device."""
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["lr"] * group["weight_decay"]
        kept = (1 - decay) or 1e-30  # of p; not 0, by which nothing can be divided
        eps, steps = group["eps"], UNBIASED_STEP
        if group["correct_bias"]:
            eps, steps = eps / math.sqrt(1 - beta2**t), float(t)

        # The kernel reads plain memory, in the order in which it lies there.
        plain = [p if p.is_contiguous() else p.contiguous() for p in params]
        step_count = torch.tensor(steps, device=device)
        torch._fused_adamw_(
            plain, [p.grad.contiguous() for p in params], [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params], [], [step_count] * len(params),
            lr=lr * kept, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay / (lr * kept) if decay else 0.0,
            amsgrad=False, maximize=False)
        torch.autograd.graph.increment_version(params)  # as every operation in place does; this kernel does not
        for p, changed in zip(params, plain, strict=True):
            if changed is not p:
                p.copy_(changed)
