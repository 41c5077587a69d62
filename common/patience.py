"""Give up on work that stands still: a server may send a byte every second for days, and no timeout ends that."""

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LEAST = 1 << 16  # bytes in each period; a minute of an old modem brings more


def while_it_moves(work: Callable[[], T], received: Callable[[], int], seconds: float) -> T:
    """Return work(), which runs in a thread. TimeoutError if received() grows by less than LEAST bytes in `seconds`.

    Work that is given up goes on until it ends by itself, or with the process.
    """
    done: queue.SimpleQueue[tuple[bool, object]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, work()))
        except BaseException as error:  # handed to the caller
            done.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    since, before = time.monotonic(), received()
    while True:
        try:
            fine, result = done.get(timeout=min(1.0, seconds / 4))
        except queue.Empty:
            if time.monotonic() - since < seconds:
                continue
            now = received()
            if now - before < LEAST:
                raise TimeoutError(f"only {now - before} bytes in {seconds:g} seconds") from None
            since, before = time.monotonic(), now
        else:
            if fine:
                return result
            raise result
