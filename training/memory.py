"""Explain a lack of memory, keep freed memory, measure the peak, and trade computing time for memory."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError

OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")
"""Parts of the messages of PyTorch's plain RuntimeErrors: on the CPU, on MPS, in CUDA's libraries."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h of the GNU C library


class OutOfMemory(UserError):
    """A computation needs more memory than there is."""

    def __init__(self, message: str, doing: str, longest: int | None = None) -> None:
        super().__init__(message)
        self.doing = doing
        "The activity, in one word (training, predicting, ...), so that a script can say what to turn down."
        self.longest = longest
        "Tokens of the longest text in the batch, where that decides."


@contextlib.contextmanager
def explain_out_of_memory(doing: str, what: str, longest: int | None = None) -> Iterator[None]:
    """Turn a shortage of memory inside into OutOfMemory: "out of memory {what}".

    An OutOfMemory from further inside passes unchanged, because it knows more.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        device = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise OutOfMemory(f"out of {device} {what}", doing, longest) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means too little memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) \
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_TEXTS))


def keep_freed_memory() -> None:
    """Make the C library (glibc only) keep freed blocks of memory and reuse them.

    By default it returns every large block to the kernel and asks for it again in the next step, page by page, zeroed:
    that took a fifth of the time of a small model's training step.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory() -> float:
    """Return the highest resident memory of this process so far, in MB (10**6 bytes); 0 on Windows, which has none."""
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    if "VmHWM" in lines:  # Linux; its getrusage would count the process that started this one
        return int(lines["VmHWM"].split()[0]) * 1.024e-3
    if sys.platform == "win32":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1e-6 if sys.platform == "darwin" else 1.024e-3)


def recompute_in_backward(module: nn.Module) -> None:
    """Make a module compute its intermediate results again in the backward pass instead of storing them until then.

    This is gradient checkpointing: less memory for about a third more time.
    """
    forward = module.forward

    @functools.wraps(forward)
    def recomputed(*args, **kwargs) -> Tensor | Callable:
        if torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return forward(*args, **kwargs)

    module.forward = recomputed
