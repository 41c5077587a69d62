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
from benchmarks.ours import Growth, Serving, TinyOnSample
from benchmarks.results import AXES, Result, machine_facts
from benchmarks.workload import SHAPES, Plan
from finetuning.settings import TINY

THREE = ("ours", "course", "Hugging Face")
GROUPED = "Hugging Face, grouped"
WITHOUT_COURSE = ("ours", "Hugging Face", GROUPED)
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L4": 121,
         "A10G": 70, "A10": 125, "RTX 4090": 165, "RTX 3090": 71}
"""TFLOP/s of dense products in bfloat16 that makers state for their cards; the first name that fits counts."""
USUAL = {"texts": 64, "length": 32, "batch": 8, "width": 128, "depth": 2}
"""What the other axes have while growth along one is measured."""
IMPORT_TORCH = "import pathlib, sys, time, torch; pathlib.Path(sys.argv[1]).write_text(str(time.time()))"
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
        yield from time_adamw_steps(plan, shape, "cpu", f"AdamW step, {shape}", rounds)
    names = ("ours", "course", "torch fused")
    code = "from benchmarks.adamw import extra_memory; print(extra_memory({!r}))"
    with ThreadPoolExecutor() as pool:  # each in a fresh process
        for name, extra in zip(names, pool.map(lambda name: run_python("-c", code.format(name)), names), strict=True):
            yield Result("AdamW memory, gpt2", name, (float(extra),), "MB", "beyond parameters, gradients and moments")


def time_adamw_steps(plan: Plan, shape: str, device: str, row: str, rounds: int, steps: int = 1) -> Iterator[Result]:
    """Time each optimizer on the parameters of a shape, on a device; `steps` of them together, where one is short."""
    with Contender(row, plan.threads, AdamWSteps, shape, device, alone=device == "cuda") as optimizers:
        moves = {name: lambda name=name: optimizers.do("step", name, steps)[0] / steps for name in OPTIMIZERS}
        take_turns(2, moves)  # to warm up
        costs = take_turns(rounds, moves)
    yield from (Result(row, name, values) for name, values in costs.items())


def time_training(plan: Plan) -> Iterator[Result]:
    """Time training on the CPU, in bfloat16 too where the processor can."""
    names = [*THREE, GROUPED]
    if {"amx_bf16", "avx512_bf16"}.intersection(machine_facts(plan.threads).get("instructions", ())):
        names += ["ours, bfloat16", f"{GROUPED}, bfloat16"]
    results = list(time_steps(plan, names, "cpu", "training", "sst", plan.batches, plan.rounds))
    yield from [*results, *best_precisions(results)]
    # Each holds up to 7 GB on long texts, all at once: three of them fit into 24 GB, four do not.
    batches = (plan.batches + 1) // 2
    yield from time_steps(plan, THREE, "cpu", "training", "cfimdb", batches, plan.long_rounds)
    for result in time_steps(plan, ("ours", GROUPED), "cpu", "training", "cfimdb", batches, plan.long_rounds):
        yield replace(result, row="training, cfimdb, grouped")


def best_precisions(results: Sequence[Result]) -> Iterator[Result]:
    """Return the rows of ours and of the peer that groups, each in the precision in which it is faster here."""
    for name in ("ours", GROUPED):
        both = [result for result in results if result.contender in (name, f"{name}, bfloat16")]
        best = min(both, key=lambda result: statistics.median(result.costs))
        precision = "bfloat16" if best.contender.endswith("bfloat16") else "float32"
        why = "" if len(both) > 1 else ": this processor does not multiply bfloat16"
        yield replace(best, row=f"{best.row}, best precision", contender=name, note=precision + why)


def time_steps(plan: Plan, names: Sequence[str], device: str, row: str, task: str, batches: int,
               rounds: int) -> Iterator[Result]:
    """Time steps on batches of 8 that stand for an epoch's; each contender has batches of its own making."""
    half = {name for name in names if device == "cuda" or name.endswith("bfloat16")}
    works = {name: plan.work(task, device=device, precision="bfloat16" if name in half else "float32")
             for name in names}
    with started(plan.threads, works) as contenders:
        yield from time_training_of(contenders, f"{row}, {task}", batches, rounds, device)


def time_training_of(contenders: dict[str, Contender], row: str, batches: int, rounds: int,
                     device: str) -> Iterator[Result]:
    """Time some typical batches a round of contenders that have been started."""
    chosen = {name: contender.do("typical_batches", batches)[1] for name, contender in contenders.items()}
    flops = {name: contender.do("useful_flops", chosen[name])[1] for name, contender in contenders.items()}
    best = contenders["ours"].do("best_flops")[1] if device == "cuda" else None
    for name, contender in contenders.items():
        # To warm up: optimizer state, compiled kernels, and the memory that ours keeps from step to step. The peers
        # keep none: where there is time for one round only, a few short texts must do for them.
        full = rounds > 1 or name.startswith("ours")
        contender.do("train", *(chosen[name] if device == "cuda" else
                                chosen[name][:1] if full else [contender.do("shortest_texts")[1]]))
    costs = take_turns(rounds, {
        name: lambda contender=contender, rows=chosen[name]: contender.do("train", *rows)[0]
        for name, contender in contenders.items()})
    for name, values in costs.items():
        examples = sum(map(len, chosen[name]))
        yield Result(row, name, tuple(value / examples for value in values), "s/example",
                     speed_note(flops[name] / statistics.median(values), best, card(device)))


def card(device: str) -> str:
    """Return the name of the GPU; an empty text for another device."""
    return torch.cuda.get_device_name() if device == "cuda" else ""


def speed_note(flops: float, best: float | None, card: str = "") -> str:
    """Write the useful floating-point operations a second, and their share of the most the chip reaches, if known."""
    share = f", {flops / best:.0%} of what a large product reaches" if best else ""
    peak = next((peak for name, peak in PEAKS.items() if name in card), None)
    share += f", {flops / peak / 1e12:.1%} of the card's {peak:,} TFLOP/s in bfloat16" if peak else ""
    return f"{flops / 1e9:,.0f} GFLOP/s without padding{share}"


def time_evaluation(plan: Plan) -> Iterator[Result]:
    """Time the logits of the same texts of all lengths, each contender in the batches that it makes by default."""
    for task, texts in (("sst", plan.texts), ("cfimdb", plan.long_texts)):
        work = plan.work(task, texts)
        with started(plan.threads, dict.fromkeys(WITHOUT_COURSE, work)) as contenders:
            for name, contender in contenders.items():
                # To warm up. Ours does all of it, for the memory that it keeps; the peers keep none: one text will do.
                if name == "ours":
                    contender.do("evaluate")
                else:
                    contender.do("train", contender.do("shortest_texts")[1][:1])
            yield from time_evaluation_of(contenders, f"evaluation, {task}", work.texts, plan.rounds)


def time_evaluation_of(contenders: dict[str, Contender], row: str, texts: int, rounds: int) -> Iterator[Result]:
    """Time contenders that have been started, and are warm; they have this many texts."""
    costs = take_turns(rounds, {name: lambda contender=contender: contender.do("evaluate")[0]
                                for name, contender in contenders.items()})
    for name, values in costs.items():
        yield Result(row, name, tuple(value / texts for value in values), "s/example")


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
    """Time `classifier.py --quick` as a user starts it, and in turn with it a python that imports PyTorch alone."""
    wholes = []

    def seconds_to_mark(*words: str) -> float:
        """Start python with these words and the name of a file; return when, after the start, it wrote the file."""
        with tempfile.TemporaryDirectory() as folder:
            mark, began = Path(folder) / "mark", time.time()
            quick = ("classifier.py", "--quick", "--no-report", "--out", folder, "--predictions", folder)
            run_python(*words, str(mark), *(quick if FIRST_STEP in words else ()),
                       env={**os.environ, "OMP_NUM_THREADS": str(plan.threads)})
            if FIRST_STEP in words:
                wholes.append(time.time() - began)
            return float(mark.read_text()) - began

    seconds_to_mark("-c", IMPORT_TORCH)  # to warm up: from now on its files are in memory
    costs = take_turns(plan.rounds, {"ours": lambda: seconds_to_mark("-c", FIRST_STEP),
                                     "import torch": lambda: seconds_to_mark("-c", IMPORT_TORCH)})
    for name, values in costs.items():
        yield Result("quick run, first batch", name, values, note="from the start of python")
    yield Result("quick run, whole", "ours", tuple(wholes))


def time_pretraining(plan: Plan) -> Iterator[Result]:
    """Time steps of pretraining a model of gpt2-tiny's shape, or a toy, on the texts of CFIMDB."""
    yield from time_pretraining_steps(plan, "cpu", "float32", "pretraining", 2 * plan.batches)


def time_pretraining_steps(plan: Plan, device: str, precision: str, row: str, *batches: int) -> Iterator[Result]:
    """Time some batches a round; both contenders have the same blocks of tokens. batches: as Contestant.batches."""
    shape = "toy" if plan.shape == "toy" else "gpt2-tiny"
    work = replace(plan.work("cfimdb", device=device, precision=precision), shape=SHAPES[shape])
    names = {"pretraining, ours": "ours", "pretraining, plain": "plain loop"}
    with started(plan.threads, dict.fromkeys(names, work)) as contenders:
        first = next(iter(contenders.values()))
        blocks = first.do("batches", *batches)[1]
        tokens = first.do("tokens", blocks)[1]
        for contender in contenders.values():
            contender.do("train", *blocks[:2])  # to warm up
        costs = take_turns(plan.rounds, {names[name]: lambda contender=contender: contender.do("train", *blocks)[0]
                                         for name, contender in contenders.items()})
    for name, values in costs.items():
        yield Result(f"{row}, {shape}", name, tuple(value / tokens for value in values), "s/token")


def time_serving(plan: Plan, many: int = 1000) -> Iterator[Result]:
    """Time the predictions of a classifier that `serving.load` has loaded: one sentence of SST, and a thousand."""
    with tempfile.TemporaryDirectory() as folder:
        run_python("classifier.py", "--data", "sst-sample", "--model", str(TINY), "--epochs", "1", "--device", "cpu",
                   "--no-report", "--out", folder, "--predictions", folder)
        run = Path(folder, "sst-sample-last-linear-layer")
        with Contender("serving", plan.threads, Serving, run, plan.work("sst")) as serving:
            serving.do("predict", many)  # to warm up
            one = tuple(serving.do("predict", 1)[0] for _ in range(25 * plan.rounds))
            thousand = tuple(serving.do("predict", many)[0] for _ in range(plan.rounds))
    yield Result("one sentence, gpt2-tiny", "ours", one, note="after loading, another one each time")
    yield Result(f"{many:,} sentences, gpt2-tiny", "ours", thousand, note="after loading, in one call")


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
    "pretraining": time_pretraining,
    "serving": time_serving,
    "growth": time_growth,
    "buckets": check_buckets,
    "gpu": time_gpu,
}
