"""A progress bar on terminals."""

import os
import sys
from collections.abc import Iterable
from typing import Any


def progress(work: Iterable[Any] | int, desc: str, unit: str = "it") -> Any:
    """Return a tqdm bar on standard error that goes away at the end.

    work: an iterable to loop over through the bar, or a number of steps, counted by calling `update(n)`. The bar is
    silent if standard error is not a terminal, so that logs stay readable, and in all processes that torchrun starts
    but the first.
    """
    from tqdm import tqdm  # here, so that `--help` does not wait for it

    silent = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    steps = {"total": work} if isinstance(work, int) else {"iterable": work}
    return tqdm(**steps, desc=desc, unit=unit, leave=False, disable=silent)
