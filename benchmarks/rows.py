"""The rows of the table: what is timed, and how often. Each is a generator of results."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import adamw
from benchmarks.arena import Contender, turns
from benchmarks.growth import time_growth
from benchmarks.plan import PEERS, Plan, enter, make_bfloat16, make_course, make_ours
from benchmarks.results import Result
from benchmarks.workload import Workload

REPOSITORY = Path(__file__).resolve().parent.parent


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and any(name in cpuinfo.read_text() for name in (" amx_bf16", " avx512_bf16"))


class AdamWSteps:
    """Optimizers that step the same parameters in turn."""

    CONTENDERS = ("ours", "ours, no compiler", "course", "torch foreach", "torch fused")

    def __init__(self, shapes: str) -> None:
        params = adamw.parameters(adamw.SHAPES[shapes])
        self.steps = {name: adamw.CONTENDERS[name](params) for name in self.CONTENDERS}

    def costs(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """Seconds of each step, after two to warm up."""
        moves = {name: lambda step=step: seconds(step) for name, step in self.steps.items()}
        turns(2, moves)
        return turns(rounds, moves)


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_adamw(plan: Plan) -> Iterator[Result]:
    """One step over all parameters, and the memory it takes beyond the two moments."""
    for shapes, rounds in (("gpt2", 3 * plan.rounds), ("gpt2-tiny", 20 * plan.rounds)):
        with Contender(f"AdamW {shapes}", plan.threads, AdamWSteps, shapes) as steps:
            costs = steps.do("costs", rounds)[1]
        yield from (Result(f"AdamW step, {shapes}", name, values) for name, values in costs.items())
    names = ("ours", "course", "torch fused")
    with ThreadPoolExecutor() as pool:
        for name, extra in zip(names, pool.map(adamw_memory, names), strict=True):
            yield Result("AdamW memory, gpt2", name, (extra,), "MB", "beyond parameters, gradients and moments")


def adamw_memory(name: str) -> float:
    """MB that steps over GPT-2's parameters take, in a fresh process."""
    code = f"from benchmarks.adamw import extra_memory; print(extra_memory({name!r}, 'gpt2'))"
    return float(run_python("-c", code).stdout)


def run_python(*arguments: str, **settings: Any) -> subprocess.CompletedProcess:
    """A fresh python in the repository."""
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, check=True,
                          **settings)


def time_training(plan: Plan) -> Iterator[Result]:
    """Training on the CPU, in bfloat16 too where the processor can."""
    bfloat16 = {"ours, bfloat16": make_bfloat16} if fast_bfloat16() else {}
    yield from time_steps(plan, PEERS | bfloat16, "cpu", "training", "sst", plan.batches, plan.rounds)
    # Each holds up to 7 GB on long texts, all at once: three of them fit into 24 GB, four do not.
    three = {name: PEERS[name] for name in ("ours", "course", "Hugging Face")}
    yield from time_steps(plan, three, "cpu", "training", "cfimdb", (plan.batches + 1) // 2, plan.long_rounds)


def time_steps(plan: Plan, makers: dict[str, Callable[[Workload], Any]], device: str, row: str, task: str,
               batches: int, rounds: int) -> Iterator[Result]:
    """Steps on batches of 8 that stand for an epoch's; each contender has batches of its own making."""
    with ExitStack() as stack:
        precision = "bfloat16" if device == "cuda" else "float32"
        contenders = enter(stack, plan, makers, plan.work(task, device=device, precision=precision))
        chosen = {name: contender.do("typical_batches", batches)[1] for name, contender in contenders.items()}
        flops = {name: contender.do("useful_flops", chosen[name])[1] for name, contender in contenders.items()}
        best = next(iter(contenders.values())).do("best_flops")[1] if device == "cuda" else None
        for name, contender in contenders.items():
            # To warm up: optimizer state, compiled kernels, and the memory that ours keeps from step to step. The peers
            # keep none: where there is time for one round only, a few short texts must do for them.
            full = rounds > 1 or name.startswith("ours")
            contender.do("train", chosen[name][0] if full else contender.do("shortest_texts")[1])
        costs = turns(rounds, {
            name: lambda contender=contender, rows=chosen[name]: contender.do("train", *rows)[0]
            for name, contender in contenders.items()})
    for name, values in costs.items():
        examples = sum(map(len, chosen[name]))
        yield Result(f"{row}, {task}", name, tuple(value / examples for value in values), "s/example",
                     speed_note(flops[name] / statistics.median(values), best))


def speed_note(flops: float, best: float | None) -> str:
    """Useful floating-point operations a second, and their share of the most the chip reaches, if known."""
    share = f", {flops / best:.0%} of what a large product reaches" if best else ""
    return f"{flops / 1e9:,.0f} GFLOP/s without padding{share}"


def time_evaluation(plan: Plan) -> Iterator[Result]:
    """Logits of the same texts of all lengths, each contender in the batches that it makes by default."""
    makers = {name: make for name, make in PEERS.items() if name != "course"}
    for task, texts in (("sst", plan.texts), ("cfimdb", plan.long_texts)):
        with ExitStack() as stack:
            work = plan.work(task, texts)
            contenders = enter(stack, plan, makers, work)
            moves = {name: lambda contender=contender: contender.do("evaluate")[0]
                     for name, contender in contenders.items()}
            for name, contender in contenders.items():
                # To warm up. Ours does all of it, for the memory that it keeps; the peers keep none: one text will do.
                if name == "ours":
                    contender.do("evaluate")
                else:
                    contender.do("train", contender.do("shortest_texts")[1][:1])
            costs = turns(plan.long_rounds, moves)
        for name, values in costs.items():
            yield Result(f"evaluation, {task}", name, tuple(value / work.texts for value in values), "s/example")


def time_frozen(plan: Plan, epochs: int = 10) -> Iterator[Result]:
    """The last-linear-layer job on SST: training, scoring on dev each epoch, predicting dev and test.

    Our head's epochs are run in full. Passes of the backbone are run over some texts of all lengths and multiplied up:
    ours, made once over each split, over `plan.texts` of them, and the course's, made in every epoch, over an eighth as
    many, which its random batches of 8 pad no less.
    """
    work = plan.work("sst", plan.texts, mode="last-linear-layer")
    few = replace(work, texts=work.texts // 8)
    train, dev, test = (len(work.files.read(split)) for split in ("train", "dev", "test"))
    row = f"frozen, {epochs} epochs"
    with ExitStack() as stack:
        contenders = [Contender("ours", plan.threads, make_ours, work),
                      Contender("course", plan.threads, make_course, few)]
        ours, course = (stack.enter_context(contender) for contender in contenders)
        batches = course.do("training_order")[1]
        course.do("train", *batches[:2])
        ours.do("features_twice")
        jobs: dict[str, list[float]] = {name: [] for name in ("ours", "again", "course", "first", "later")}
        for _ in range(plan.long_rounds):
            features = ours.do("features_twice")[1]
            feature = (features["made"] - features["reused"]) / work.texts
            head = ours.do("head_epoch", train, dev)[0]
            step = course.do("train", *batches)[0] / few.texts
            look = course.do("evaluate")[0] / few.texts
            made = feature * (train + dev + test) + features["reused"]
            jobs["ours"].append(made + epochs * head)
            jobs["again"].append(features["reused"] + epochs * head)
            jobs["course"].append(epochs * (train * (step + look) + dev * look) + (dev + test) * look)
            jobs["first"].append(feature * (train + dev) + head)
            jobs["later"].append(head)
    note = "backbone multiplied up from {} texts"
    yield Result(row, "ours", tuple(jobs["ours"]), note=note.format(work.texts))
    yield Result(row, "ours, features stored", tuple(jobs["again"]), note="a later run with other settings")
    yield Result(row, "course", tuple(jobs["course"]), note=note.format(few.texts))
    yield Result("frozen, later epoch", "ours", tuple(jobs["later"]), note="measured in full")
    yield Result("frozen, later epoch", "first epoch", tuple(jobs["first"]), note=note.format(work.texts))


def measure_memory(plan: Plan) -> Iterator[Result]:
    """The peak of a process that trains on an epoch's longest batch, batch of 8, everything included."""
    for task in plan.memory_tasks:
        names = ("ours", "course", "Hugging Face")
        contenders = [Contender(name, plan.threads, PEERS[name], plan.work(task), alone=True) for name in names]
        for name, contender in zip(names, contenders, strict=True):
            with contender:  # it ends before the next one works: together they would need more than 24 GB
                contender.do("train", contender.do("shortest_texts")[1], contender.do("longest_batch")[1])
                peak = contender.do("peak_mb")[1]
            yield Result(f"peak memory, {task}", name, (peak,), "MB", "longest batch of an epoch")


def time_quick_run(plan: Plan) -> Iterator[Result]:
    """`classifier.py --quick` as a user starts it."""
    if not has_tiny():
        return
    firsts, wholes = [], []
    for _ in range(plan.long_rounds):
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder) / "first"
            began = time.time()
            run_python("-m", "benchmarks.first_step", str(mark), "classifier.py", "--quick", "--out", folder,
                       "--predictions", folder, env={**os.environ, "OMP_NUM_THREADS": str(plan.threads)})
            wholes.append(time.time() - began)
            firsts.append(float(mark.read_text()) - began)
    yield Result("quick run, first batch", "ours", tuple(firsts), note="from the start of python")
    yield Result("quick run, whole", "ours", tuple(wholes))


def check_buckets(plan: Plan) -> Iterator[Result]:
    """Accuracy with batches of like length and with random ones."""
    if not has_tiny():
        return
    from benchmarks.buckets import compare_orders
    yield from compare_orders(plan.threads, plan.seeds, plan.epochs)


def has_tiny() -> bool:
    """Whether gpt2-tiny is there; says so if not."""
    if (REPOSITORY / "models" / "gpt2-tiny" / "model.safetensors").exists():
        return True
    print("skipped: models/gpt2-tiny has no weights here", file=sys.stderr)
    return False


def time_gpu(plan: Plan) -> Iterator[Result]:
    """Training on a GPU, in bfloat16 autocast for everyone."""
    if not torch.cuda.is_available():
        print("GPU rows: skipped, PyTorch sees no CUDA device here", file=sys.stderr)
        return
    makers = {name: PEERS[name] for name in ("ours", "Hugging Face", "Hugging Face, grouped")}
    yield from time_steps(plan, makers, "cuda", "GPU training", "sst", 8 * plan.batches, plan.rounds)


ROWS: dict[str, Callable[[Plan], Iterator[Result]]] = {
    "adamw": time_adamw,
    "training": time_training,
    "frozen": time_frozen,
    "evaluation": time_evaluation,
    "memory": measure_memory,
    "quick": time_quick_run,
    "growth": lambda plan: time_growth(plan.threads),
    "buckets": check_buckets,
    "gpu": time_gpu,
}
