"""Explain a lack of memory, keep freed memory, measure the peak, and trade computing time for memory."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError

# Parts of the messages of plain errors: PyTorch's on the CPU, on MPS, in CUDA's libraries; of an import; the system's.
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "_ALLOC_FAILED", "failed to map segment",
                       "Cannot allocate memory")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h of the GNU C library


class OutOfMemory(UserError):
    """A computation needs more memory than there is."""

    def __init__(self, message: str, doing: str, longest: int | None = None) -> None:
        super().__init__(message)
        # So that a script can say what to turn down: the activity, in one word (training, predicting, ...), and the
        # tokens of the longest text in the batch, where that decides.
        self.doing, self.longest = doing, longest


@contextlib.contextmanager
def explain_out_of_memory(doing: str, what: str, longest: int | None = None) -> Iterator[None]:
    """Turn a shortage of memory inside into OutOfMemory; one from further inside passes unchanged: it knows more."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY_TEXTS)):
            raise
        raise OutOfMemory(f"out of {'GPU memory' if on_gpu else 'memory'} {what}", doing, longest) from error


def keep_freed_memory() -> None:
    """Make the C library (glibc only) keep freed blocks of memory and reuse them.

    It usually returns every large block to the kernel, which took a fifth of the time of a small model's step.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
    """Make a module compute intermediate results again in the backward pass: less memory, a third more time."""
    forward = module.forward

    @functools.wraps(forward)
    def recomputed(*args, **kwargs):
        if torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return forward(*args, **kwargs)

    module.forward = recomputed
