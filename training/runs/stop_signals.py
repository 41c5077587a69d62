"""Ctrl-C and SIGTERM lose nothing: the first one asks training to stop after the current step, a second one ends it."""

import os
import signal
from types import FrameType


class StopSignals:
    """Inside `with StopSignals() as stop:` the first SIGINT or SIGTERM only sets stop.requested to its number.

    The training session checks it between two steps, saves, and raises Stopped. A second signal ends the process at
    once. One that comes too late, when training is done, takes effect where the block ends. For the main thread only.
    """

    def __init__(self, speak: bool = True) -> None:
        """speak: print that the process is about to stop; only one of several processes should."""
        self.requested: int | None = None
        self.speak = speak
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
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
        # Restore only this signal's handler: if both came at once, the other one still needs its own.
        signal.signal(number, self._before.pop(number))
        if self.speak:  # os.write, because the signal may have interrupted a print
            os.write(2, b"\nfinishing the step, then saving; press Ctrl-C again to stop at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
