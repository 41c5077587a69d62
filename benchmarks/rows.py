"""Each row of the table is a generator of results: what is timed, and how often."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy import run_python
from benchmarks.adamw import OPTIMIZERS, AdamWSteps
from benchmarks.contenders import Contender, make_peer, started, take_turns
from benchmarks.ours import Growth, TinyOnSample
from benchmarks.results import AXES, Result, machine_facts
from benchmarks.workload import Plan

THREE = ("ours", "course", "Hugging Face")
WITHOUT_COURSE = ("ours", "Hugging Face", "Hugging Face, grouped")
USUAL = {"texts": 64, "length": 32, "batch": 8, "width": 128, "depth": 2}
"""What the other axes have while growth along one is measured."""
FIRST_STEP = """
import pathlib, runpy, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
_, mark, *sys.argv = sys.argv
hook = register_optimizer_step_post_hook(lambda *_: (hook.remove(), pathlib.Path(mark).write_text(str(time.time()))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program that runs the script named after a file, and writes into the file when its first optimizer step is done."""


def time_adamw(plan: Plan) -> Iterator[Result]:
    """Time one step over all parameters, and measure the memory it takes beyond the two moments."""
    for shape, rounds in (("gpt2", 3 * plan.rounds), ("gpt2-tiny", 20 * plan.rounds)):
        with Contender(f"AdamW {shape}", plan.threads, AdamWSteps, shape) as steps:
            moves = {name: lambda name=name: steps.do("step", name)[0] for name in OPTIMIZERS}
            take_turns(2, moves)  # to warm up
            costs = take_turns(rounds, moves)
        yield from (Result(f"AdamW step, {shape}", name, values) for name, values in costs.items())
    names = ("ours", "course", "torch fused")
    code = "from benchmarks.adamw import extra_memory; print(extra_memory({!r}))"
    with ThreadPoolExecutor() as pool:  # each in a fresh process
        for name, extra in zip(names, pool.map(lambda name: run_python("-c", code.format(name)), names), strict=True):
            yield Result("AdamW memory, gpt2", name, (float(extra),), "MB", "beyond parameters, gradients and moments")


def time_training(plan: Plan) -> Iterator[Result]:
    """Time training on the CPU, in bfloat16 too where the processor can."""
    names = [*THREE, "Hugging Face, grouped"]
    if {"amx_bf16", "avx512_bf16"}.intersection(machine_facts(plan.threads).get("instructions", ())):
        names.append("ours, bfloat16")
    yield from time_steps(plan, names, "cpu", "training", "sst", plan.batches, plan.rounds)
    # Each holds up to 7 GB on long texts, all at once: three of them fit into 24 GB, four do not.
    yield from time_steps(plan, THREE, "cpu", "training", "cfimdb", (plan.batches + 1) // 2, plan.long_rounds)


def time_steps(plan: Plan, names: Sequence[str], device: str, row: str, task: str, batches: int,
               rounds: int) -> Iterator[Result]:
    """Time steps on batches of 8 that stand for an epoch's; each contender has batches of its own making."""
    half = {name for name in names if device == "cuda" or name.endswith("bfloat16")}
    works = {name: plan.work(task, device=device, precision="bfloat16" if name in half else "float32")
             for name in names}
    with started(plan.threads, works) as contenders:
        chosen = {name: contender.do("typical_batches", batches)[1] for name, contender in contenders.items()}
        flops = {name: contender.do("useful_flops", chosen[name])[1] for name, contender in contenders.items()}
        best = contenders["ours"].do("best_flops")[1] if device == "cuda" else None
        for name, contender in contenders.items():
            # To warm up: optimizer state, compiled kernels, and the memory that ours keeps from step to step. The peers
            # keep none: where there is time for one round only, a few short texts must do for them.
            full = rounds > 1 or name.startswith("ours")
            contender.do("train", chosen[name][0] if full else contender.do("shortest_texts")[1])
        costs = take_turns(rounds, {
            name: lambda contender=contender, rows=chosen[name]: contender.do("train", *rows)[0]
            for name, contender in contenders.items()})
    for name, values in costs.items():
        examples = sum(map(len, chosen[name]))
        yield Result(f"{row}, {task}", name, tuple(value / examples for value in values), "s/example",
                     speed_note(flops[name] / statistics.median(values), best))


def speed_note(flops: float, best: float | None) -> str:
    """Write the useful floating-point operations a second, and their share of the most the chip reaches, if known."""
    share = f", {flops / best:.0%} of what a large product reaches" if best else ""
    return f"{flops / 1e9:,.0f} GFLOP/s without padding{share}"


def time_evaluation(plan: Plan) -> Iterator[Result]:
    """Time the logits of the same texts of all lengths, each contender in the batches that it makes by default."""
    for task, texts in (("sst", plan.texts), ("cfimdb", plan.long_texts)):
        work = plan.work(task, texts)
        with started(plan.threads, dict.fromkeys(WITHOUT_COURSE, work)) as contenders:
            moves = {name: lambda contender=contender: contender.do("evaluate")[0]
                     for name, contender in contenders.items()}
            for name, contender in contenders.items():
                # To warm up. Ours does all of it, for the memory that it keeps; the peers keep none: one text will do.
                if name == "ours":
                    contender.do("evaluate")
                else:
                    contender.do("train", contender.do("shortest_texts")[1][:1])
            costs = take_turns(plan.long_rounds, moves)
        for name, values in costs.items():
            yield Result(f"evaluation, {task}", name, tuple(value / work.texts for value in values), "s/example")


def time_frozen(plan: Plan, epochs: int = 10) -> Iterator[Result]:
    """Time the last-linear-layer job on SST: training, scoring on dev each epoch, predicting dev and test.

    Our head's epochs are run in full. Passes of the backbone are run over some texts of all lengths and multiplied up:
    ours, made once over each split, over `plan.texts` of them, and the course's, made in every epoch, over an eighth as
    many, which its random batches of 8 pad no less.
    """
    work = plan.work("sst", plan.texts, mode="last-linear-layer")
    few = replace(work, texts=work.texts // 8)
    train, dev, test = (len(work.files.read(split)) for split in ("train", "dev", "test"))
    row = f"frozen, {epochs} epochs"
    with started(plan.threads, {"ours": work, "course": few}) as contenders:
        ours, course = contenders.values()
        batches = course.do("training_order")[1]
        course.do("train", *batches[:2])
        ours.do("features_twice")
        jobs = []
        for _ in range(plan.long_rounds):
            features = ours.do("features_twice")[1]
            feature = (features["made"] - features["reused"]) / work.texts
            head = ours.do("head_epoch", train, dev)[0]
            step = course.do("train", *batches)[0] / few.texts
            look = course.do("evaluate")[0] / few.texts
            again = features["reused"] + epochs * head
            theirs = epochs * (train * (step + look) + dev * look) + (dev + test) * look
            jobs.append((feature * (train + dev + test) + again, again, theirs, feature * (train + dev) + head, head))
    first_run, later_run, theirs, first_epoch, later_epoch = zip(*jobs, strict=True)
    note = "backbone multiplied up from {} texts"
    yield Result(row, "ours", first_run, note=note.format(work.texts))
    yield Result(row, "ours, features stored", later_run, note="a later run with other settings")
    yield Result(row, "course", theirs, note=note.format(few.texts))
    yield Result("frozen, later epoch", "ours", later_epoch, note="measured in full")
    yield Result("frozen, later epoch", "first epoch", first_epoch, note=note.format(work.texts))


def measure_memory(plan: Plan) -> Iterator[Result]:
    """Measure the peak of a process that trains on an epoch's longest batch of 8, everything included."""
    for task in plan.memory_tasks:
        contenders = [Contender(name, plan.threads, make_peer, name, plan.work(task), alone=True) for name in THREE]
        for name, contender in zip(THREE, contenders, strict=True):
            with contender:  # it ends before the next one works: together they would need more than 24 GB
                contender.do("train", contender.do("shortest_texts")[1], contender.do("longest_batch")[1])
                peak = contender.peak_memory()
            yield Result(f"peak memory, {task}", name, (peak,), "MB", "longest batch of an epoch")


def time_quick_run(plan: Plan) -> Iterator[Result]:
    """Time `classifier.py --quick` as a user starts it."""
    firsts, wholes = [], []
    for _ in range(plan.long_rounds):
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder) / "first"
            began = time.time()
            run_python("-c", FIRST_STEP, str(mark), "classifier.py", "--quick", "--out", folder,
                       "--predictions", folder, env={**os.environ, "OMP_NUM_THREADS": str(plan.threads)})
            wholes.append(time.time() - began)
            firsts.append(float(mark.read_text()) - began)
    yield Result("quick run, first batch", "ours", tuple(firsts), note="from the start of python")
    yield Result("quick run, whole", "ours", tuple(wholes))


def time_growth(plan: Plan) -> Iterator[Result]:
    """Measure each point of each axis: one result each."""
    with Contender("growth", plan.threads, Growth) as contender:
        for axis, values in AXES.items():
            for value in values:
                seconds = contender.do("epoch", *(USUAL | {axis: value}).values())[1]
                yield Result(f"growth, {axis}", str(value), (seconds,), note="one epoch of 64 texts or as varied")


def check_buckets(plan: Plan) -> Iterator[Result]:
    """Compare what is learned from batches of similar length and from random ones, over several seeds."""
    errors = {"bucketed": [], "random order": []}
    with Contender("buckets", plan.threads, TinyOnSample) as tiny:
        for seed in range(plan.seeds):
            for name, values in errors.items():
                values.append(tiny.do("error", seed, name == "bucketed", plan.epochs)[1])
    for name, values in errors.items():
        yield Result("dev error, buckets", name, tuple(values), "share", f"{plan.epochs} epochs, {plan.seeds} seeds")


def time_gpu(plan: Plan) -> Iterator[Result]:
    """Time training on a GPU, in bfloat16 autocast for everyone."""
    if not torch.cuda.is_available():
        print("GPU rows: skipped, PyTorch sees no CUDA device here", file=sys.stderr)
        return
    yield from time_steps(plan, WITHOUT_COURSE, "cuda", "GPU training", "sst", 8 * plan.batches, plan.rounds)


ROWS: dict[str, Callable[[Plan], Iterator[Result]]] = {
    "adamw": time_adamw,
    "training": time_training,
    "frozen": time_frozen,
    "evaluation": time_evaluation,
    "memory": measure_memory,
    "quick": time_quick_run,
    "growth": time_growth,
    "buckets": check_buckets,
    "gpu": time_gpu,
}
