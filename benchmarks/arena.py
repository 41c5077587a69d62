"""Contenders side by side: each in a process of its own, so that neither memory nor settings mix, taking turns.

One works at a time, the others wait without using the processor; so what else the machine does hits them alike.
"""

import gc
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError

Make = Callable[..., Any]

PRELOADED = ["benchmarks.course", "benchmarks.huggingface", "benchmarks.ours"]
"""What a server imports once, where the system can fork: contenders are forked from it and need not import it again."""


def peak_mb() -> float:
    """The most memory this process has held, in MB.

    From /proc where there is one, because Linux's getrusage starts from the parent's size.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1.024e-3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1e-6 if sys.platform == "darwin" else 1.024e-3)


class Contender:
    """An object made by `make(*args)` in a process of its own; `seconds, result = contender.do(method, *args)`.

    The process starts at once, and entering the context waits until the object is there: several can be made together.
    alone: it shares nothing with others, so that peak_mb() counts what it has imported itself and no more.
    """

    def __init__(self, name: str, threads: int, make: Make, *args: Any, alone: bool = False) -> None:
        self.name = name
        shared = not alone and "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if shared else "spawn")
        if shared:
            context.set_forkserver_preload(PRELOADED)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, make, args), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, method: str, *args: Any) -> tuple[float, Any]:
        """Call a method; the seconds it took and what it returned."""
        self.pipe.send((method, args))
        return self._answer()

    def peak_mb(self) -> float:
        """The most memory its process has held so far."""
        return self.do("peak_mb")[1]

    def _answer(self) -> tuple[float, Any]:
        try:
            good, *answer = self.pipe.recv()
        except EOFError:
            raise UserError(f"the process of {self.name!r} died, perhaps for want of memory") from None
        if not good:
            raise RuntimeError(f"{self.name}: {answer[0]}")
        return tuple(answer)

    def __enter__(self) -> "Contender":
        self._answer()
        return self

    def __exit__(self, *_: Any) -> None:
        self.pipe.close()  # its recv() ends, and so does the process
        self.process.join()


def _serve(pipe: Connection, threads: int, make: Make, args: tuple[Any, ...]) -> None:
    """The life of a contender's process."""
    torch.set_num_threads(1)  # while others are made beside it: threads that wait for each other would slow all down
    with pipe:
        try:
            contender = make(*args)
            torch.set_num_threads(threads)
            gc.collect()
            pipe.send((True, 0.0, None))
            while True:
                method, arguments = pipe.recv()
                function = peak_mb if method == "peak_mb" else getattr(contender, method)
                start = time.perf_counter()
                result = function(*arguments)
                pipe.send((True, time.perf_counter() - start, result))
        except EOFError:
            return
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))
            raise


def spread_of(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), low, high


def machine_facts(threads: int) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    facts = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": threads,
             "system": platform.system(), "python": platform.python_version()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        facts["processor"] = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")),
                                  facts["processor"])
        flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
        facts["instructions"] = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
        facts["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
        facts["load"] = os.getloadavg()[0]
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}


def turns(rounds: int, moves: dict[str, Callable[[], float]]) -> dict[str, tuple[float, ...]]:
    """Let each contender move once a round, in an order that turns; what each move gave, round by round."""
    names, given = list(moves), {name: [] for name in moves}
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            given[name].append(moves[name]())
    return {name: tuple(values) for name, values in given.items()}
