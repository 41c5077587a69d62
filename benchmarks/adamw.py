"""AdamW's contenders: they step the parameters of one GPT-2 in turn, and are compared in time and memory."""

import functools
import gc
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.workload import SHAPES
from engine.adamw import FastAdamW
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from optimizer import AdamW
from training.memory import peak_memory

OPTIONS = {"lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "ours": FastAdamW,
    "course": AdamW,
    "torch foreach": functools.partial(torch.optim.AdamW, foreach=True),
    "torch fused": functools.partial(torch.optim.AdamW, fused=True),
}
"""`ours` is the engine, which runs train with; `course` the definition, optimizer.py: one parameter after another."""


def parameters(shape: GPT2Config, device: str = "cpu") -> list[nn.Parameter]:
    """Make a GPT-2's parameters with gradients from a fixed seed, without temporaries: `extra_memory` needs that."""
    with torch.device("meta"):  # shapes without memory
        sizes = [p.shape for p in GPT2Model(shape).parameters()]
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(size, generator=generator).mul_(0.02).to(device)) for size in sizes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).mul_(0.01).to(device)
    return params


class AdamWSteps:
    """All optimizers, on the same parameters."""

    def __init__(self, shape: str, device: str = "cpu") -> None:
        params = parameters(SHAPES[shape], device)
        self.optimizers = {name: make(params, **OPTIONS) for name, make in OPTIMIZERS.items()}

    def step(self, name: str, count: int = 1) -> None:
        """Do some steps of an optimizer."""
        for _ in range(count):
            self.optimizers[name].step()


def extra_memory(name: str) -> float:
    """Return the MB that two steps of GPT-2 124M take beyond parameters, gradients and the two moments.

    Needs a fresh process.
    """
    make = OPTIMIZERS[name]
    make([parameters(SHAPES["toy"])[-1]], **OPTIONS).step()  # the code that a first step loads is not counted: 70 MB
    params = parameters(SHAPES["gpt2"])
    gc.collect()
    before = peak_memory()
    optimizer = make(params, **OPTIONS)
    optimizer.step()
    optimizer.step()
    return peak_memory() - before - 2 * 4e-6 * sum(p.numel() for p in params)
