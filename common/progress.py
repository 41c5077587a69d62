"""A progress bar for people, silence for logs."""

import os
import sys
from collections.abc import Iterable
from typing import Any


def progress(work: Iterable[Any] | int, desc: str, unit: str = "it") -> Any:
    """A tqdm bar on standard error over `work`, an iterable, or of `work` steps counted by its `update(n)`.

    Silent when standard error is no terminal, so logs and tests stay readable, and in all but the first of the
    processes that torchrun starts; the bar goes away when it is done.
    """
    from tqdm import tqdm  # late: `--help` must not wait for it

    silent = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    steps = {"total": work} if isinstance(work, int) else {"iterable": work}
    return tqdm(**steps, desc=desc, unit=unit, leave=False, disable=silent)
