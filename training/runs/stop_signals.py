"""Ctrl-C, SIGTERM and a lost terminal (SIGHUP) lose nothing.

The first one asks training to stop after the current step, a second one ends it.
"""

import contextlib
import os
import signal
from types import FrameType


class StopSignals:
    """Inside `with StopSignals() as stop:` the first SIGINT, SIGTERM or SIGHUP only sets stop.requested to its number.

    The training session checks it between two steps, saves, and raises Stopped. A second signal ends the process at
    once. One that comes too late, when training is done, takes effect where the block ends. A SIGHUP that is ignored
    (nohup) stays ignored. For the main thread only.
    """

    def __init__(self, speak: bool = True) -> None:
        """speak: print that the process is about to stop; only one of several processes should."""
        self.requested: int | None = None
        self.speak = speak
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._restore()
        if error is None and self.requested is not None:
            number, self.requested = self.requested, None
            signal.raise_signal(number)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:  # the second signal, of the other kind
            self._restore()
            signal.raise_signal(number)
            return
        self.requested = number
        # Restore only this signal's handler: if several came at once, the others still need their own.
        signal.signal(number, self._before.pop(number))
        if self.speak:  # os.write, because the signal may have interrupted a print
            with contextlib.suppress(OSError):  # the terminal may be gone: no message may cost the save
                os.write(2, b"\nfinishing the step, then saving; press Ctrl-C again to stop at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
