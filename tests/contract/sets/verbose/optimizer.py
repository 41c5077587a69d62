"""
AdamW optimizer for the GPT-2 project.

For every parameter theta with gradient g the following is done (t counts from 1):

    m_t = beta1 * m_{t-1} + (1 - beta1) * g
    v_t = beta2 * v_{t-1} + (1 - beta2) * g^2
    alpha_t = alpha * sqrt(1 - beta2^t) / (1 - beta1^t)
    theta_t = theta_{t-1} - alpha_t * m_t / (sqrt(v_t) + eps)
    theta_t = theta_t - alpha * lambda * theta_t
"""
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

import torch
from torch import Tensor
from torch.optim import Optimizer


def initialize_state(parameter: Tensor) -> Dict[str, Tensor]:
    """Create the state which is remembered for one parameter."""
    return {
        "step": torch.tensor(0.0),
        "first_moment": torch.zeros_like(parameter),
        "second_moment": torch.zeros_like(parameter),
    }


def compute_step_size(lr: float, beta1: float, beta2: float, step: float, correct_bias: bool) -> float:
    """Return the step size, with the bias correction folded in when it is wanted."""
    if not correct_bias:
        return lr
    correction_for_first_moment = 1.0 - beta1 ** step
    correction_for_second_moment = 1.0 - beta2 ** step
    return lr * (correction_for_second_moment ** 0.5) / correction_for_first_moment


class AdamW(Optimizer):
    def __init__(
        self,
        params: Iterable[torch.nn.parameter.Parameter],
        lr: float = 1e-3,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta at index {index}: {beta}")
        if eps < 0.0:
            raise ValueError(f"Invalid epsilon: {eps}")
        defaults: Dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)

    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        loss = None
        if closure is not None:
            loss = closure()

        with torch.no_grad():
            for group in self.param_groups:
                learning_rate: float = group["lr"]
                beta1, beta2 = group["betas"]
                epsilon: float = group["eps"]
                weight_decay: float = group["weight_decay"]
                correct_bias: bool = group["correct_bias"]

                for parameter in group["params"]:
                    gradient = parameter.grad
                    if gradient is None:
                        continue
                    if gradient.is_sparse:
                        raise RuntimeError("AdamW does not support sparse gradients")

                    parameter_state = self.state[parameter]
                    if len(parameter_state) == 0:
                        parameter_state.update(initialize_state(parameter))

                    # Step 1: increase the counter.
                    parameter_state["step"] += 1
                    step = parameter_state["step"].item()

                    # Step 2: update the moments.
                    first_moment = parameter_state["first_moment"]
                    second_moment = parameter_state["second_moment"]
                    first_moment.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
                    second_moment.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)

                    # Step 3: update the parameter.
                    step_size = compute_step_size(learning_rate, beta1, beta2, step, correct_bias)
                    denominator = torch.sqrt(second_moment) + epsilon
                    parameter.sub_(step_size * first_moment / denominator)

                    # Step 4: weight decay, on the already updated parameter.
                    parameter.mul_(1.0 - learning_rate * weight_decay)

        return loss
