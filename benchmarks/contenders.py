"""Contenders run side by side: each in a process of its own, so that neither memory nor settings mix, taking turns.

One works at a time, and the others wait without using the processor. So whatever else the machine does hits all alike.
"""

import gc
import multiprocessing
import pkgutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.workload import Workload
from common.errors import UserError
from training.memory import peak_memory

PEERS = {
    "ours": "benchmarks.ours:Ours",
    "ours, bfloat16": "benchmarks.ours:Ours",
    "course": "benchmarks.course:Course",
    "Hugging Face": "benchmarks.huggingface:HuggingFace",
    "Hugging Face, grouped": "benchmarks.huggingface:GroupedByLength",
    "Hugging Face, grouped, bfloat16": "benchmarks.huggingface:GroupedByLength",
    "pretraining, ours": "benchmarks.pretraining:Ours",
    "pretraining, plain": "benchmarks.pretraining:Plain",
}
"""Who is compared: the name of each contender, and its module and class."""


def make_peer(name: str, work: Workload) -> Any:
    """Make the contender of this name. Its libraries are imported here: in its own process, and in no other."""
    return pkgutil.resolve_name(PEERS[name])(work)


class Contender:
    """An object made by `make(*args)` in a process of its own; `seconds, result = contender.do(method, *args)`.

    The process starts at once, and entering the context waits until the object is there: several can be made together.
    alone: the process shares nothing with others, so that peak_memory() counts what it has imported itself and no more.
    """

    def __init__(self, name: str, threads: int, make: Callable[..., Any], *args: Any, alone: bool = False) -> None:
        self.name = name
        shared = not alone and "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if shared else "spawn")
        if shared:
            # A server imports these modules once; contenders are forked from it and need not import them again.
            context.set_forkserver_preload(sorted({path.split(":")[0] for path in PEERS.values()}))
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, make, args), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, method: str, *args: Any) -> tuple[float, Any]:
        """Call a method; return the seconds it took and its result."""
        self.pipe.send((method, args))
        return self._answer()

    def peak_memory(self) -> float:
        """Return the most memory that its process has held so far, in MB: the GPU's, if it computes there."""
        return self.do("peak_memory")[1]

    def _answer(self) -> tuple[float, Any]:
        try:
            seconds, result, error = self.pipe.recv()
        except EOFError:
            raise UserError(f"the process of {self.name!r} died, perhaps for want of memory") from None
        if error:
            raise RuntimeError(f"{self.name}: {error}")
        return seconds, result

    def __enter__(self) -> "Contender":
        self._answer()
        return self

    def __exit__(self, *_: Any) -> None:
        self.pipe.close()  # its recv() ends, and so does the process
        self.process.join()


def _serve(pipe: Connection, threads: int, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Make the object and answer calls: all that a contender's process does."""
    torch.set_num_threads(1)  # while others are made beside it: threads that wait for each other would slow all down
    with pipe:
        try:
            contender = make(*args)
            torch.set_num_threads(threads)
            gc.collect()
            pipe.send((0.0, None, None))
            while True:
                method, arguments = pipe.recv()
                function = peak if method == "peak_memory" else getattr(contender, method)
                wait_for_gpu()
                start = time.perf_counter()
                result = function(*arguments)
                wait_for_gpu()
                pipe.send((time.perf_counter() - start, result, None))
        except EOFError:
            return
        except Exception as error:
            pipe.send((0.0, None, f"{type(error).__name__}: {error}"))
            raise


def wait_for_gpu() -> None:
    """Wait until a GPU, if this process has used one, has done what it was given: kernels run beside Python."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak() -> float:
    """Return the highest memory of this process so far, in MB: the GPU's that tensors took, if it has used one."""
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_initialized() else peak_memory()


@contextmanager
def started(threads: int, works: dict[str, Workload]) -> Iterator[dict[str, Contender]]:
    """Start the peers with these names, all together, each with its workload; they end with the context."""
    contenders = {name: Contender(name, threads, make_peer, name, work, alone=work.device == "cuda")
                  for name, work in works.items()}  # CUDA cannot be used in a fork of a process that has looked at it
    with ExitStack() as stack:
        yield {name: stack.enter_context(contender) for name, contender in contenders.items()}


def take_turns(rounds: int, moves: dict[str, Callable[[], float]]) -> dict[str, tuple[float, ...]]:
    """Let each contender move once a round, in an order that changes; return what each move gave, round by round."""
    names, given = deque(moves), {name: [] for name in moves}
    for _ in range(rounds):
        for name in names:
            given[name].append(moves[name]())
        names.rotate(-1)
    return {name: tuple(values) for name, values in given.items()}
