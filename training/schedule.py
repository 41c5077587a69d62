"""How the learning rate moves over a run."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "linear", "cosine"]


def make_scheduler(optimizer: Optimizer, schedule: Schedule, warmup: float, total_steps: int,
                   floor: float = 0.0) -> LambdaLR:
    """Rise linearly from 0 during the first `warmup` share of total_steps, then stay, or fall to `floor` times the
    top by the end of them and stay there.

    To be stepped once after every optimizer step. The first step already has a rate above 0.
    """
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[schedule]
        return floor + (1.0 - floor) * shape

    return LambdaLR(optimizer, factor)
