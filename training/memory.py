"""Running out of memory, told with what to turn down; a user's problem, not a bug."""

import contextlib
from collections.abc import Iterator

import torch

from common.errors import UserError

SAYS_SO = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")
"""How PyTorch's plain RuntimeErrors put it: of the CPU, of MPS, of CUDA's libraries."""


class OutOfMemory(UserError):
    """A computation needs more memory than there is."""


@contextlib.contextmanager
def enough_memory(what: str, *advice: str | None) -> Iterator[None]:
    """If memory runs out inside: OutOfMemory, saying what it was needed for and which flags to turn down.

    advice: one phrase a flag, best first; None where a flag has nothing left to give. An OutOfMemory from further
    inside passes: it knows more.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        device = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise OutOfMemory(f"out of {device} {what}.\n"
                          f"Turn down: {'; or '.join(filter(None, advice))}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) \
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in SAYS_SO))


def halved(flag: str, value: int) -> str | None:
    """Advice to halve a flag; None where there is nothing to halve."""
    return f"{flag} {value // 2} (now {value})" if value > 1 else None


def doubled(flag: str, value: int, most: int) -> str | None:
    """Advice to double a flag that divides a step into parts, of which `most` make sense; None beyond."""
    more = min(2 * value, most)
    return f"{flag} {more} (now {value}): the same step in smaller parts" if more > value else None
