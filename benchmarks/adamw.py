"""One AdamW step, ours beside the course's loop and torch's three: time and memory.

    ./setup.sh -m benchmarks.adamw [--rounds 20] [--shapes gpt2 gpt2-tiny] [--threads N] [--memory]

All contenders step the same parameters, in turn, so that whatever else the machine does hits them alike. Times are
medians with quartiles, after two steps to warm up (and our kernel compiled).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import optimizer_fast
from optimizer import AdamW, adamw_update

OPTIONS = {"lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}


def gpt2_shapes(hidden: int, layers: int, vocab: int, positions: int) -> list[tuple[int, ...]]:
    """The shapes of a GPT-2's parameters, with query, key and value apart as in modules/attention.py."""
    square, wide = [(hidden, hidden), (hidden,)], [(4 * hidden, hidden), (4 * hidden,)]
    layer = [*square * 4, *wide, (hidden, 4 * hidden), *[(hidden,)] * 5]
    return [(vocab, hidden), (positions, hidden), *layer * layers, (hidden,), (hidden,)]


SHAPES = {
    "gpt2": gpt2_shapes(768, 12, 50257, 1024),
    "gpt2-tiny": gpt2_shapes(320, 4, 16384, 512),
}


class CourseAdamW(torch.optim.Optimizer):
    """What a course solution looks like: one parameter after the other, whole tensors, scalars from Python."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state, (beta1, beta2) = self.state[p], group["betas"]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                step_size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-step_size)
                if group["weight_decay"]:
                    p.add_(p, alpha=-group["lr"] * group["weight_decay"])


def ours_with(apply: Callable[..., None]) -> Callable[[list[Tensor]], Callable[[], None]]:
    """A maker of our optimizer, made to apply its updates by `apply(definition, updates)`."""

    def make(params: list[Tensor]) -> Callable[[], None]:
        ours = AdamW(params, **OPTIONS)

        def step() -> None:
            chosen, optimizer_fast.apply = optimizer_fast.apply, apply
            try:
                ours.step()
            finally:
                optimizer_fast.apply = chosen

        return step

    return make


def in_pieces(definition: optimizer_fast.Definition, updates: list[optimizer_fast.Update]) -> None:
    for update in updates:
        optimizer_fast.apply_in_pieces(definition, update)


def whole(definition: optimizer_fast.Definition, updates: list[optimizer_fast.Update]) -> None:
    for update in updates:
        definition(*update)


def ours(params: list[Tensor]) -> Callable[[], None]:
    if not optimizer_fast.kernel.tried:
        optimizer_fast.kernel.compile(adamw_update)
    return AdamW(params, **OPTIONS).step


CONTENDERS: dict[str, Callable[[list[Tensor]], Callable[[], None]]] = {
    "ours": ours,
    "ours, no compiler": ours_with(in_pieces),
    "ours, readable loop": ours_with(whole),
    "course": lambda params: CourseAdamW(params, OPTIONS).step,
    "torch loop": lambda params: torch.optim.AdamW(params, **OPTIONS, foreach=False).step,
    "torch foreach": lambda params: torch.optim.AdamW(params, **OPTIONS, foreach=True).step,
    "torch fused": lambda params: torch.optim.AdamW(params, **OPTIONS, fused=True).step,
}


def parameters(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Parameters with gradients, drawn from a fixed seed, without temporaries (`extra_memory` needs that)."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).mul_(0.02)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).mul_(0.01)
    return params


def time_rows(name: str, rounds: int = 20) -> Iterator[dict[str, Any]]:
    """One row per contender for the shapes `name`: median and quartiles of a step in ms, and ratios of medians."""
    params = parameters(SHAPES[name])
    steps = {contender: make(params) for contender, make in CONTENDERS.items()}
    times: dict[str, list[float]] = {contender: [] for contender in steps}
    for round_ in range(-2, rounds):
        for contender, step in steps.items():
            start = time.perf_counter()
            step()
            if round_ >= 0:
                times[contender].append(1e3 * (time.perf_counter() - start))
    medians = {contender: statistics.median(values) for contender, values in times.items()}
    for contender, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        yield {
            "benchmark": "adamw step",
            "shapes": name,
            "parameters": sum(p.numel() for p in params),
            "contender": contender,
            "kernel": optimizer_fast.kernel.function is not None,
            "threads": torch.get_num_threads(),
            "rounds": rounds,
            "ms": medians[contender],
            "ms_low": low,
            "ms_high": high,
            "ms_best": min(values),
            "x_fused": medians[contender] / medians["torch fused"],
            "x_course": medians[contender] / medians["course"],
        }


def extra_memory(contender: str, name: str) -> float:
    """Peak MB that two steps take beyond parameters, gradients and the two moments. Call it in a fresh process."""
    CONTENDERS[contender](parameters([(8, 8)]))()  # the code a first step loads, 70 MB of torch's, is no one's scratch
    params = parameters(SHAPES[name])
    gc.collect()
    before = peak_mb()
    step = CONTENDERS[contender](params)
    step()
    step()
    return peak_mb() - before - 2 * 4e-6 * sum(p.numel() for p in params)


def peak_mb() -> float:
    """The most memory this process has held, in MB. Linux counts in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1e-6 if sys.platform == "darwin" else 1.024e-3)


def memory_rows(name: str) -> Iterator[dict[str, Any]]:
    """One row per contender for the shapes `name`, each measured in a process of its own."""
    for contender in CONTENDERS:
        code = f"from benchmarks.adamw import *; print(extra_memory({contender!r}, {name!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        yield {"benchmark": "adamw memory", "shapes": name, "contender": contender, "extra_mb": float(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each contender")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.shapes:
        for row in memory_rows(name) if args.memory else time_rows(name, args.rounds):
            if args.json:
                print(json.dumps(row))
            elif args.memory:
                print(f"{name:15s} {row['contender']:20s} {row['extra_mb']:8.1f} MB beyond the moments")
            else:
                print("{shapes:15s} {contender:20s} {ms:8.2f} ms ({ms_low:.2f} to {ms_high:.2f})"
                      "  {x_fused:5.2f} x fused  {x_course:5.2f} x course".format(**row))  # fmt: skip


if __name__ == "__main__":
    main()
