import torch
from torch.optim import Optimizer


class AdamW(Optimizer):
    """AdamW, efficient bias correction (Kingma & Ba section 2), decay after the update."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True):
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError("lr, eps and weight_decay must not be negative")
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                      correct_bias=correct_bias))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            b1, b2 = group["betas"]
            lr, wd, eps = group["lr"], group["weight_decay"], group["eps"]
            for p in group["params"]:
                g = p.grad
                if g is None:
                    continue
                if g.is_sparse:
                    raise RuntimeError("sparse gradients are not supported")

                state = self.state[p]
                t = state.get("num_updates", 0) + 1
                avg = state.get("grad_avg", torch.zeros_like(p))
                sq = state.get("grad_sq_avg", torch.zeros_like(p))

                avg = b1 * avg + (1 - b1) * g
                sq = b2 * sq + (1 - b2) * g * g
                state["num_updates"], state["grad_avg"], state["grad_sq_avg"] = t, avg, sq

                alpha_t = lr
                if group["correct_bias"]:
                    alpha_t = lr * (1 - b2 ** t) ** 0.5 / (1 - b1 ** t)

                p -= alpha_t * avg / (sq.sqrt() + eps)
                p -= lr * wd * p

        return loss
