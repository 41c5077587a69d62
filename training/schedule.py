"""Schedules change the learning rate over a run."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "linear", "cosine"]


def make_scheduler(optimizer: Optimizer, schedule: Schedule, warmup: float, total_steps: int,
                   floor: float = 0.0) -> LambdaLR:
    """Make a scheduler that scales each parameter group's learning rate. Step it once after every optimizer step.

    The rate rises linearly in the first `warmup` (a share, 0 to 1) of total_steps; the first step already has a rate
    above 0. Then 'constant' stays at the full rate; 'linear' and 'cosine' fall to `floor` times it at total_steps.
    """
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[schedule]
        return floor + (1.0 - floor) * shape

    return LambdaLR(optimizer, factor)
