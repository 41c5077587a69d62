from typing import Callable, Iterable, Tuple

import torch
from torch.optim import Optimizer


class AdamW(Optimizer):
  def __init__(self, params: Iterable[torch.nn.parameter.Parameter], lr: float = 1e-3,
               betas: Tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0,
               correct_bias: bool = True):
    if lr < 0.0:
      raise ValueError(f"Invalid learning rate: {lr} - should be >= 0.0")
    for b in betas:
      if not 0.0 <= b < 1.0:
        raise ValueError(f"Invalid beta parameter: {b} - should be in [0.0, 1.0[")
    if eps < 0.0:
      raise ValueError(f"Invalid epsilon value: {eps} - should be >= 0.0")
    super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, correct_bias=correct_bias))

  def step(self, closure: Callable = None):
    loss = None
    if closure is not None:
      loss = closure()

    for group in self.param_groups:
      for p in group["params"]:
        if p.grad is None:
          continue
        grad = p.grad.data
        if grad.is_sparse:
          raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")

        state = self.state[p]
        alpha = group["lr"]
        beta1, beta2 = group["betas"]

        # 1. first and second moments
        if not state:
          state["step"] = 0
          state["exp_avg"] = torch.zeros_like(p.data)
          state["exp_avg_sq"] = torch.zeros_like(p.data)
        state["step"] += 1
        state["exp_avg"] = state["exp_avg"] * beta1 + grad * (1 - beta1)
        state["exp_avg_sq"] = state["exp_avg_sq"] * beta2 + grad.pow(2) * (1 - beta2)

        # 2. bias correction. see https://arxiv.org/abs/1412.6980, end of section 2
        if group["correct_bias"]:
          alpha_t = alpha * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        else:
          alpha_t = alpha

        # 3. update parameters
        p.data = p.data - alpha_t * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"])

        # 4. weight decay after the main update, with the plain learning rate
        p.data = p.data - alpha * group["weight_decay"] * p.data

    return loss
