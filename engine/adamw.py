"""optimizer.AdamW's step in one pass over memory, by PyTorch's fused kernel.

PyTorch's kernel computes another AdamW: it decays before the gradient step, and adds eps to the corrected sqrt(v). With
bc1 = 1 - beta1^t, bc2 = 1 - beta2^t and other arguments it computes ours:

    theirs:  p (1 - lr' wd') - lr' / bc1  m / (sqrt(v) / sqrt(bc2) + eps')
    ours:   (p - lr sqrt(bc2) / bc1  m / (sqrt(v) + eps)) (1 - lr wd)

They are equal for eps' = eps / sqrt(bc2), lr' = lr (1 - lr wd) and wd' = lr wd / lr'.
"""

import contextlib
import math
import mmap
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

UNBIASED_STEP = 1e9
"""A step count so high that PyTorch's kernel finds nothing to correct: beta^t is 0."""
BLOCK = 2**19
"""Numbers of an embedding that are updated together: 2 MB in float32, so that they stay in the processor's cache."""
LARGEST_GRADIENT = 2.0**64
"""A gradient with a larger number in it has no finite norm in float32."""


class FastAdamW(torch.optim.Optimizer):
    """An AdamW with the arguments of optimizer.AdamW, for dense parameters on a CPU or on CUDA.

    Its state is named as there: `step` (int), `exp_avg`, `exp_avg_sq`. Results differ from the definition's by float32
    rounding.

    The gradient of an embedding may be sparse: then it lists the rows of the batch's words (nn.Embedding(sparse=True)).
    A row whose moments are 0 and that has no gradient does not move, so only the others are read and written.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0, correct_bias: bool = True) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "correct_bias": correct_bias})
        self.moving: dict[Tensor, tuple[Tensor, Tensor]] = {}
        """Of a parameter with sparse gradients: its exp_avg, and which rows [V] have a moment that is not 0."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over another optimizer's state: as a copy of it, or from a checkpoint."""
        super().__setstate__(state)
        self.moving = {}

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
                state = self.state[p]
                if not state:
                    zeros = zeros_on_demand if p.grad.is_sparse and p.is_cpu else torch.zeros
                    state["step"] = 0
                    # Contiguous, whatever the layout of p: see `update`.
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = zeros(p.shape, dtype=p.dtype, device=p.device)
                state["step"] += 1
                if not p.grad.is_sparse:
                    self.moving.pop(p, None)  # any row may move
                elif not self.update_rows(p, group):
                    p.grad = p.grad.to_dense()
                if not p.grad.is_sparse:
                    alike[state["step"], p.dtype, p.device].append(p)
            for (t, _, device), params in alike.items():
                self.update(params, group, t, device)
        return loss

    def update(self, params: list[Tensor], group: dict[str, Any], t: int, device: torch.device) -> None:
        """Do the t-th step of some parameters, all of one dtype and device."""
        # The kernel reads plain memory, in the order in which it lies there.
        plain = [p if p.is_contiguous() else p.contiguous() for p in params]
        states = [self.state[p] for p in params]
        fused_step(plain, [p.grad.contiguous() for p in params], [state["exp_avg"] for state in states],
                   [state["exp_avg_sq"] for state in states], group, t, device)
        torch.autograd.graph.increment_version(params)  # as every operation in place does; this kernel does not
        for p, changed in zip(params, plain, strict=True):
            if changed is not p:
                p.copy_(changed)

    def update_rows(self, p: Tensor, group: dict[str, Any]) -> bool:
        """Do a step of a parameter [V, C] with a sparse gradient, as `update` would.

        Returns False, with nothing done, where that saves no time: with weight decay every row moves, and where most
        rows move the copies to and fro cost more.
        """
        if group["weight_decay"] or p.ndim != 2 or not p.is_contiguous():
            self.moving.pop(p, None)
            return False
        state = self.state[p]
        first, second = state["exp_avg"], state["exp_avg_sq"]

        # Which rows move. Moments that were loaded from a checkpoint are new tensors.
        if p not in self.moving or self.moving[p][0] is not first:
            self.moving[p] = first, first.ne(0).any(dim=1) | second.ne(0).any(dim=1)
        moving = self.moving[p][1]
        grad = p.grad.coalesce()
        moving[grad.indices()[0]] = True
        rows = moving.nonzero()[:, 0]
        if 2 * len(rows) > len(p):
            return False

        # Step, a block of rows after another. place: where in the gradient a row is, one past its end if it has none.
        values = torch.cat([grad.values(), grad.values().new_zeros(1, p.shape[1])])
        place = torch.full((len(p),), len(values) - 1, device=p.device)
        place[grad.indices()[0]] = torch.arange(len(values) - 1, device=p.device)
        for block in rows.split(max(BLOCK // p.shape[1], 1)):
            parts = [tensor[block] for tensor in (p, first, second)]
            fused_step(parts[:1], [values[place[block]]], parts[1:2], parts[2:], group, state["step"], p.device)
            for tensor, part in zip((p, first, second), parts, strict=True):
                tensor[block] = part
            moving[block] = parts[1].ne(0).any(dim=1) | parts[2].ne(0).any(dim=1)
        return True

    def largest_change(self) -> float:
        """Return a bound on how far a step moves any number, if the norm of the gradient is finite in float32.

        sqrt(v) is at least 0 and a moment is no larger than the largest gradient, so a step is at most lr / (1 - beta1)
        of that, divided by eps.
        """
        bounds = [group["lr"] / (1 - group["betas"][0]) * LARGEST_GRADIENT / group["eps"] if group["eps"] else math.inf
                  for group in self.param_groups]
        return max(bounds, default=0.0)


def zeros_on_demand(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros on the CPU that take memory only where they are written: 4 KB for each page with a number in it.

    Of the moments of GPT-2's words, 309 MB, a short run writes a few rows.
    """
    size = shape.numel() * dtype.itemsize
    if not size or not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a system that has no huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)  # a page would be 2 MB, most of a thousand rows
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def fused_step(params: list[Tensor], grads: list[Tensor], first: list[Tensor], second: list[Tensor],
               group: dict[str, Any], t: int, device: torch.device) -> None:
    """Do the t-th step of some contiguous tensors, all of one dtype and device, with their moments."""
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["lr"] * group["weight_decay"]
    kept = (1 - decay) or 1e-30  # of p; not 0, by which nothing can be divided
    eps, steps = group["eps"], UNBIASED_STEP
    if group["correct_bias"]:
        eps, steps = eps / math.sqrt(1 - beta2**t), float(t)
    torch._fused_adamw_(
        params, grads, first, second, [], [torch.tensor(steps, device=device)] * len(params),
        lr=lr * kept, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay / (lr * kept) if decay else 0.0,
        amsgrad=False, maximize=False)
